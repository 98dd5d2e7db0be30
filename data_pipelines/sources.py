"""Sources: index -> (encoded image, encoded annotation, name), and the decoding of one example.

A source knows where bytes come from, nothing else; every source goes through the same pipeline.
"""

import abc
import collections
import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from data_pipelines.cache import Cache
from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
LABEL_ENDINGS = (".png",)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_RGB = bytes([8, 2])  # bytes 24 and 25 of a PNG of 8 bits a channel, red, green and blue
FOLDER_LAYOUT = (
    "Expected in data.dir: images/train/NAME.jpg, annotations/train/NAME.png, the same for val, and classes.json "
    "(other folder names: data.image_dir, data.label_dir, data.train_split, data.val_split)"
)


class Source(abc.ABC):
    """A sequence of encoded examples: `len(source)`, `source[i] -> (image bytes, annotation bytes, name)`.

    The annotation's bytes are None where there is none: every pixel is then ignored.
    name: what messages call the source, for example its directory.
    decoded: {index: (image, label)} kept here when config.cache is on, as far as memory allows.
    skipped: {message: times} of the examples that could not be read and were skipped.
    """

    def __init__(self, name: str):
        self.name = name
        self.decoded = Cache(name)
        self.skipped: collections.Counter[str] = collections.Counter()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> tuple[bytes, bytes | None, str]: ...

    @abc.abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`; raises DataError if it cannot be read."""

    def label_name(self, index: int) -> str:
        """What messages call annotation `index`."""
        return f"{self.name} {index}"

    def image_name(self, index: int) -> str:
        """What messages and results call image `index`."""
        return f"{self.name} {index}"


class FileSource(Source):
    """Pairs of files, `pairs`: [(path of the image, path of the annotation)].

    Works on anything tf.io.gfile can read (local disks, also read-only ones; gs:// buckets).
    """

    def __init__(self, name: str, pairs: Sequence[tuple[str, str]]):
        super().__init__(name)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]:
        image, label = self.pairs[index]
        return read_bytes(image), read_bytes(label), image

    def label_name(self, index: int) -> str:
        return self.pairs[index][1]

    def image_name(self, index: int) -> str:
        return self.pairs[index][0]

    def size(self, index: int) -> tuple[int, int]:
        path = self.pairs[index][0]
        try:
            with tf.io.gfile.GFile(path, "rb") as file, Image.open(file) as image:  # reads the header only
                return image.height, image.width
        except (OSError, SyntaxError, ValueError, tf.errors.OpError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: the image cannot be read: {error}") from error


class ImageSource(FileSource):
    """Image files without annotations, as those of a test split."""

    def __init__(self, name: str, paths: Sequence[str]):
        super().__init__(name, [(path, path) for path in paths])

    def __getitem__(self, index: int) -> tuple[bytes, None, str]:
        path = self.pairs[index][0]
        return read_bytes(path), None, path


class FolderSource(FileSource):
    """Image and annotation files of one split: `dir/image_dir/split/STEM.jpg` and `dir/label_dir/split/STEM.png`.

    Raises DataError for a missing directory (followed by `advice`), an empty split, and images and annotations that do
    not pair by stem.
    """

    def __init__(
        self,
        directory: str,
        split: str,
        image_dir: str = "images",
        label_dir: str = "annotations",
        advice: str = FOLDER_LAYOUT,
    ):
        directory = os.fspath(directory)
        images = folder_images(directory, split, image_dir, advice)
        labels = _files_by_stem(os.path.join(directory, label_dir, split), LABEL_ENDINGS, advice)
        _check_pairs(images, labels, "image", "annotation")
        _check_pairs(labels, images, "annotation", "image")
        super().__init__(f"{directory} ({split})", [(images[stem], labels[stem]) for stem in sorted(images)])


def folder_images(directory: str, split: str, image_dir: str = "images", advice: str = FOLDER_LAYOUT) -> dict[str, str]:
    """{STEM: path} of the images `dir/image_dir/split/STEM.jpg`; DataError (followed by `advice`) without a folder."""
    folder = os.path.join(directory, image_dir, split)
    images = _files_by_stem(folder, IMAGE_ENDINGS, advice)
    if not images:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_ENDINGS)})")
    return images


class ListSource(FileSource):
    """The names in the text file `dir/list_dir/split.txt`, one a line: `dir/image_dir/NAME.jpg`, `dir/MASKS/NAME.png`.

    Of the directories `label_dirs` the first that has a name's annotation counts. The order is that of the names, not
    of the list. Raises DataError for a missing or empty list, or missing files (followed by `advice`).
    """

    def __init__(
        self, directory: str, split: str, list_dir: str, image_dir: str, label_dirs: Sequence[str], advice: str
    ):
        images = listed_images(directory, split, list_dir, image_dir, advice)
        labels = {}
        for label_dir in label_dirs:
            labels = _files_by_stem(os.path.join(directory, label_dir), LABEL_ENDINGS, advice) | labels
        missing = [os.path.join(directory, label_dirs[-1], f"{name}.png") for name in images if name not in labels]
        listed = os.path.join(directory, list_dir, f"{split}.txt")
        require_files(missing, len(images), f"listed in {listed}", advice)
        super().__init__(f"{directory} ({split})", [(path, labels[name]) for name, path in images.items()])


def listed_images(directory: str, split: str, list_dir: str, image_dir: str, advice: str) -> dict[str, str]:
    """{NAME: path} of the images `dir/image_dir/NAME.jpg` that `dir/list_dir/split.txt` names, in rising order.

    Raises DataError for a missing or empty list, or missing files (followed by `advice`).
    """
    listed = os.path.join(directory, list_dir, f"{split}.txt")
    names = sorted({line.strip() for line in read_bytes(listed).decode(errors="replace").splitlines()} - {""})
    if not names:
        raise DataError(f"{listed} holds no names; expected one a line. {advice}")
    images = _files_by_stem(os.path.join(directory, image_dir), IMAGE_ENDINGS, advice)
    missing = [os.path.join(directory, image_dir, f"{name}.jpg") for name in names if name not in images]
    require_files(missing, len(names), f"listed in {listed}", advice)
    return {name: images[name] for name in names}


def require_files(missing: Sequence[str], count: int, what: str, advice: str) -> None:
    """Raises DataError if any of the `count` files, which `what` describes, is `missing`."""
    if missing:
        raise DataError(
            f"{len(missing)} of {count} files {what} are missing, for example {', '.join(missing[:3])}. {advice}"
        )


def read_classes(directory: str) -> LabelSpec:
    """The LabelSpec in `directory/classes.json`; raises DataError if the file is missing or wrong."""
    path = os.path.join(directory, "classes.json")
    if not tf.io.gfile.exists(path):
        raise DataError(f'{path} is missing. It names the classes: {{"classes": ["road", "sky"], "ignore_index": 255}}')
    return LabelSpec.from_json(read_bytes(path).decode(errors="replace"), path)


def read_example(source: Source, labels: LabelSpec, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes example `index`: image uint8 [h, w, 3] RGB and label uint8 [h, w] of train ids.

    Raises DataError naming the file if a file is missing, truncated or corrupt, or if the two differ in size;
    LabelError if the annotation holds ids outside the table. The label of an image without annotation is IGNORE.
    """
    image, label, name = source[index]
    return decode_example(image, label, name, source.label_name(index), labels)


def decode_example(
    image_bytes: bytes, label_bytes: bytes | None, name: str, label_name: str, labels: LabelSpec
) -> tuple[np.ndarray, np.ndarray]:
    """What `read_example` gives, from the bytes of the two files; the names are for the messages."""
    image = _decode_image(image_bytes, name)
    if label_bytes is None:
        return image, np.full(image.shape[:2], IGNORE, np.uint8)
    label = decode_label(label_bytes, label_name)
    if label.shape != image.shape[:2]:
        raise DataError(
            f"{label_name}: the annotation is {label.shape[1]}x{label.shape[0]}, its image "
            f"{image.shape[1]}x{image.shape[0]} (width x height); they must be the same"
        )
    return image, labels.apply(label, label_name)


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Annotation file -> uint8 [h, w] of raw ids. A palette file gives its indices, not its colours.

    Raises DataError naming the file if it is no picture, or one of other pixels.
    """
    label = _decode(data, name, "annotation")
    if label.mode not in ("L", "P"):
        raise DataError(
            f"{name}: the annotation has {label.mode} pixels; expected one 8-bit channel of class ids "
            "(a grey or palette PNG). A mask of colours becomes one of ids with PIL: Image.open(MASK).convert('RGB')"
            ".quantize(palette=Image.open(OTHER), dither=0).save(MASK), where OTHER is any palette mask of the set."
        )
    return np.asarray(label)


def check_labels(source: Source, labels: LabelSpec, on_error: str = "stop", sample: int = 64) -> None:
    """Reads `sample` annotations spread evenly over the source; raises LabelError at an id outside the table.

    Unreadable files raise DataError too, unless on_error is 'skip' (the pipeline counts them when it meets them).
    """
    for index in np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)):
        try:
            name = source.label_name(int(index))
            if (encoded := source[int(index)][1]) is not None:
                labels.apply(decode_label(encoded, name), name)
        except LabelError:
            raise
        except DataError:
            if on_error == "stop":
                raise


def _decode_image(data: bytes, name: str) -> np.ndarray:
    """uint8 [h, w, 3] RGB."""
    if data.startswith(PNG_SIGNATURE) and data[24:26] == PNG_RGB:
        try:
            return tf.io.decode_png(data, 3).numpy()  # the same pixels in half of PIL's time
        except tf.errors.InvalidArgumentError:
            pass  # PIL takes a file that lacks its end, and says what is wrong with the others
    image = _decode(data, name, "image")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name}: the image has {image.mode} pixels of more than 8 bits; save it with 8 bits a channel")
    return np.asarray(image.convert("RGB"))


def _decode(data: bytes, name: str, kind: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the {kind} cannot be decoded ({len(data)} bytes): {error}") from error


def read_bytes(path: str) -> bytes:
    """The content of a file; raises DataError naming it if it cannot be read."""
    try:
        with tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb") as file:
            return file.read()
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _files_by_stem(directory: str, endings: tuple[str, ...], advice: str) -> dict[str, str]:
    if not tf.io.gfile.isdir(directory):
        raise DataError(f"directory {directory} does not exist. {advice}")
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
