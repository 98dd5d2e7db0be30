"""Sources: index -> (encoded image, encoded annotation, name), and the decoding of one example.

A source knows where bytes come from, nothing else; every source goes through the same pipeline.
"""

import abc
import collections
import io
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from data_pipelines.labels import DataError, LabelError, LabelSpec

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
LABEL_ENDINGS = (".png",)


class Source(abc.ABC):
    """A sequence of encoded examples: `len(source)`, `source[i] -> (image bytes, annotation bytes, name)`.

    name: what messages call the source, for example its directory.
    decoded: {index: (image, label)} kept here when config.cache is on.
    skipped: {message: times} of the examples that could not be read and were skipped.
    """

    def __init__(self, name: str):
        self.name = name
        self.decoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.skipped: collections.Counter[str] = collections.Counter()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]: ...

    @abc.abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`; raises DataError if it cannot be read."""

    def label_name(self, index: int) -> str:
        """What messages call annotation `index`."""
        return f"{self.name} {index}"


class FolderSource(Source):
    """Image and annotation files of one split: `dir/image_dir/split/STEM.jpg` and `dir/label_dir/split/STEM.png`.

    Works on anything tf.io.gfile can list and read (local disks, also read-only ones; gs:// buckets).
    Raises DataError for a missing directory, an empty split, and images and annotations that do not pair by stem.
    """

    def __init__(self, directory: str, split: str, image_dir: str = "images", label_dir: str = "annotations"):
        directory = os.fspath(directory)
        super().__init__(f"{directory} ({split})")
        images = _files_by_stem(os.path.join(directory, image_dir, split), IMAGE_ENDINGS, directory)
        labels = _files_by_stem(os.path.join(directory, label_dir, split), LABEL_ENDINGS, directory)
        if not images and not labels:
            raise DataError(f"{os.path.join(directory, image_dir, split)} holds no image ({', '.join(IMAGE_ENDINGS)})")
        _check_pairs(images, labels, "image", "annotation")
        _check_pairs(labels, images, "annotation", "image")
        self.pairs = [(images[stem], labels[stem]) for stem in sorted(images)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]:
        image, label = self.pairs[index]
        return _read(image), _read(label), image

    def label_name(self, index: int) -> str:
        return self.pairs[index][1]

    def size(self, index: int) -> tuple[int, int]:
        path = self.pairs[index][0]
        try:
            with tf.io.gfile.GFile(path, "rb") as file, Image.open(file) as image:  # reads the header only
                return image.height, image.width
        except (OSError, SyntaxError, ValueError, tf.errors.OpError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: the image cannot be read: {error}") from error


def read_classes(directory: str) -> LabelSpec:
    """The LabelSpec in `directory/classes.json`; raises DataError if the file is missing or wrong."""
    path = os.path.join(directory, "classes.json")
    if not tf.io.gfile.exists(path):
        raise DataError(f'{path} is missing. It names the classes: {{"classes": ["road", "sky"], "ignore_index": 255}}')
    return LabelSpec.from_json(_read(path).decode(errors="replace"), path)


def read_example(source: Source, labels: LabelSpec, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes example `index`: image uint8 [h, w, 3] RGB and label uint8 [h, w] of train ids.

    Raises DataError naming the file if a file is missing, truncated or corrupt, or if the two differ in size;
    LabelError if the annotation holds ids outside the table.
    """
    image_bytes, label_bytes, name = source[index]
    image = _decode(image_bytes, name, "image")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name}: the image has {image.mode} pixels of more than 8 bits; save it with 8 bits a channel")
    image = np.asarray(image.convert("RGB"))
    label_name = source.label_name(index)
    label = decode_label(label_bytes, label_name)
    if label.shape != image.shape[:2]:
        raise DataError(
            f"{label_name}: the annotation is {label.shape[1]}x{label.shape[0]}, its image "
            f"{image.shape[1]}x{image.shape[0]} (width x height); they must be the same"
        )
    return image, labels.apply(label, label_name)


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Annotation file -> uint8 [h, w] of raw ids. A palette file gives its indices, not its colours."""
    label = _decode(data, name, "annotation")
    if label.mode not in ("L", "P"):
        raise DataError(
            f"{name}: the annotation has {label.mode} pixels; expected one 8-bit channel of class ids "
            "(a grey or palette PNG)"
        )
    return np.asarray(label)


def check_labels(source: Source, labels: LabelSpec, on_error: str = "stop", sample: int = 64) -> None:
    """Reads `sample` annotations spread evenly over the source; raises LabelError at an id outside the table.

    Unreadable files raise DataError too, unless on_error is 'skip' (the pipeline counts them when it meets them).
    """
    for index in np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)):
        try:
            name = source.label_name(int(index))
            labels.apply(decode_label(source[int(index)][1], name), name)
        except LabelError:
            raise
        except DataError:
            if on_error == "stop":
                raise


def _decode(data: bytes, name: str, kind: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the {kind} cannot be decoded ({len(data)} bytes): {error}") from error


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _files_by_stem(directory: str, endings: tuple[str, ...], root: str) -> dict[str, str]:
    if not tf.io.gfile.isdir(directory):
        raise DataError(
            f"directory {directory} does not exist. Expected in data.dir={root!r}: images/train/NAME.jpg, "
            "annotations/train/NAME.png, the same for val, and classes.json "
            "(other folder names: data.image_dir, data.label_dir, data.train_split, data.val_split)"
        )
    files: dict[str, str] = {}
    for entry in sorted(tf.io.gfile.listdir(directory)):
        stem, ending = os.path.splitext(entry)
        if ending.lower() not in endings or entry.startswith("."):
            continue
        if stem in files:
            raise DataError(f"{directory}: {os.path.basename(files[stem])} and {entry} have the same name; keep one")
        files[stem] = os.path.join(directory, entry)
    return files


def _check_pairs(files: dict[str, str], others: dict[str, str], kind: str, other_kind: str) -> None:
    alone = [path for stem, path in files.items() if stem not in others]
    if alone:
        raise DataError(
            f"{len(alone)} of {len(files)} {kind} files have no {other_kind} of the same name, "
            f"for example {', '.join(alone[:3])}. Add the {other_kind} files or take the {kind} files away."
        )
