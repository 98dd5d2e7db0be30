"""Sources: index -> (encoded image, encoded annotation, name), and the decoding of one example.

A source knows where bytes come from, nothing else; every source goes through the same pipeline.
"""

import abc
import collections
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from data_pipelines import pictures
from data_pipelines.cache import Cache
from data_pipelines.class_file import parse
from data_pipelines.labels import IGNORE, DataError, LabelSpec
from data_pipelines.pairing import IMAGE_ENDINGS, LABEL_ENDINGS, files_by_stem, paired
from data_pipelines.pictures import Mask, Reading, read_bytes

FOLDER_LAYOUT = (
    "Expected in data.dir: images/train/NAME.jpg, annotations/train/NAME.png, the same for val, and classes.json "
    "(other folder names: data.image_dir, data.label_dir, data.train_split, data.val_split; folders elsewhere: "
    "data.train_dirs, data.val_dirs)"
)


class Source(abc.ABC):
    """A sequence of encoded examples: `len(source)`, `source[i] -> (image bytes, annotation bytes, name)`.

    The annotation's bytes are None where there is none: every pixel is then ignored.
    name: what messages call the source, for example its directory.
    decoded: {index: (image, label)} kept here when config.cache is on, as far as memory allows.
    skipped: {message: times} of the examples that could not be read and were skipped.
    reading: how its pictures are read (the bounds of config.data, and the formats that may come).
    """

    reading = Reading()

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

    def label_bytes(self, index: int) -> bytes | None:
        """The annotation alone, for what needs no image."""
        return self[index][1]

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

    reading = Reading(formats=pictures.FILES)

    def __init__(self, name: str, pairs: Sequence[tuple[str, str]]):
        super().__init__(name)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]:
        image, label = self.pairs[index]
        return read_bytes(image), read_bytes(label), image

    def label_bytes(self, index: int) -> bytes | None:
        """The annotation alone, for what needs no image."""
        return read_bytes(self.pairs[index][1])

    def label_name(self, index: int) -> str:
        return self.pairs[index][1]

    def image_name(self, index: int) -> str:
        return self.pairs[index][0]

    def size(self, index: int) -> tuple[int, int]:
        path = self.pairs[index][0]
        try:
            with pictures.open_file(path) as file:
                return pictures.read_size(file, path, self.reading)
        except (OSError, tf.errors.OpError) as error:
            raise DataError(f"{path}: the image cannot be read: {error}") from error


class ImageSource(FileSource):
    """Image files without annotations, as those of a test split."""

    def __init__(self, name: str, paths: Sequence[str]):
        super().__init__(name, [(path, path) for path in paths])

    def __getitem__(self, index: int) -> tuple[bytes, None, str]:
        path = self.pairs[index][0]
        return read_bytes(path), None, path

    def label_bytes(self, index: int) -> None:
        return None


class FolderSource(FileSource):
    """Image and annotation files of one split: `dir/image_dir/split/NAME.jpg` and `dir/label_dir/split/NAME.png`.

    folders: those of the split's images and annotations, where they are others. NAME may hold sub-folders, and
    NAME_mask.png will do for an annotation. Raises DataError for a missing directory (followed by `advice`), an empty
    split, and images and annotations that do not pair (data_pipelines.pairing).
    """

    def __init__(
        self,
        directory: str,
        split: str,
        image_dir: str = "images",
        label_dir: str = "annotations",
        advice: str = FOLDER_LAYOUT,
        folders: Sequence[str] | None = None,
    ):
        directory = os.fspath(directory)
        if folders is None:
            folders = [os.path.join(directory, kind, split) for kind in (image_dir, label_dir)]
        images, labels = folders
        pairs = paired(folder_images(images, advice), images, labels, advice)
        super().__init__(f"{directory} ({split})", pairs)


def folder_images(folder: str, advice: str = FOLDER_LAYOUT) -> dict[str, str]:
    """{NAME: path} of the images `folder/NAME.jpg`, NAME with sub-folders.

    Raises DataError (followed by `advice`) without a folder or without an image.
    """
    return files_by_stem(folder, IMAGE_ENDINGS, "image", advice, walk=True)


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
            labels = _flat(os.path.join(directory, label_dir), LABEL_ENDINGS, advice) | labels
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
    images = _flat(os.path.join(directory, image_dir), IMAGE_ENDINGS, advice)
    missing = [os.path.join(directory, image_dir, f"{name}.jpg") for name in names if name not in images]
    require_files(missing, len(names), f"listed in {listed}", advice)
    return {name: images[name] for name in names}


def _flat(directory: str, endings: tuple[str, ...], advice: str) -> dict[str, str]:
    """{NAME: path} of the files in a directory of a published data set; it may be empty."""
    return files_by_stem(directory, endings, "", advice)


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
        raise DataError(
            f'{path} is missing. It names the classes, {{"classes": ["road", "sky"]}}, and says which file ids (or '
            "colours) mean them; docs/labels.md has the usual forms."
        )
    return parse(read_bytes(path).decode(errors="replace"), path)


def read_example(source: Source, labels: LabelSpec, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes example `index`: image uint8 [h, w, 3] RGB and label uint8 [h, w] of train ids, both upright.

    Raises DataError naming the file if a file is missing, truncated or corrupt, not of the kind it has to be, or if the
    two differ in size; LabelError if the annotation holds ids outside the table. The label of an image without
    annotation is IGNORE.
    """
    image, label, name = source[index]
    return decode_example(image, label, name, source.label_name(index), labels, source.reading)


def decode_example(
    image_bytes: bytes,
    label_bytes: bytes | None,
    name: str,
    label_name: str,
    labels: LabelSpec,
    reading: Reading = FileSource.reading,
) -> tuple[np.ndarray, np.ndarray]:
    """What `read_example` gives, from the bytes of the two files; the names are for the messages."""
    image = pictures.decode_image(image_bytes, name, reading)
    if label_bytes is None:
        return image, np.full(image.shape[:2], IGNORE, np.uint8)
    mask = pictures.decode_mask(label_bytes, label_name, reading)
    if mask.pixels.shape[:2] != image.shape[:2]:
        raise DataError(
            f"{label_name}: the annotation is {mask.pixels.shape[1]}x{mask.pixels.shape[0]}, its image "
            f"{image.shape[1]}x{image.shape[0]} (width x height, upright); they must be the same"
        )
    return image, labels.read(mask.pixels, label_name, mask.palette)


def read_mask(source: Source, index: int) -> Mask | None:
    """Annotation `index` as its file has it, None where there is none; raises DataError as `decode_mask`."""
    data = source.label_bytes(index)
    return None if data is None else pictures.decode_mask(data, source.label_name(index), source.reading)
