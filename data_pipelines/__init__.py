"""Data sets and their input pipeline: sources, label tables, augmentation and batches (tf.data, no accelerator).

data = data_pipelines.build(config.data)          # Data(train, val, labels)
batches = data_pipelines.train_batches(data, config.data, seed=0, start_step=0)

The keys of config.data and their defaults are in se_jax/config/options.py.
"""

import dataclasses
import pkgutil
from collections.abc import Sequence

import tensorflow as tf

# The accelerators belong to JAX: TensorFlow would take their memory, and on a TPU the whole chip.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

from data_pipelines import ade20k, cityscapes, pascal_context, shapes, voc2012  # noqa: E402
from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec  # noqa: E402
from data_pipelines.official import Official  # noqa: E402
from data_pipelines.pipeline import calibration_batches, eval_batches, train_batches  # noqa: E402
from data_pipelines.records import is_prepared, located  # noqa: E402
from data_pipelines.sources import (  # noqa: E402
    FileSource,
    FolderSource,
    ImageSource,
    Source,
    check_labels,
    folder_images,
    read_classes,
    read_example,
)

__all__ = [
    "IGNORE",
    "OFFICIAL",
    "Data",
    "DataError",
    "FileSource",
    "FolderSource",
    "ImageSource",
    "LabelError",
    "LabelSpec",
    "Source",
    "build",
    "calibration_batches",
    "check_labels",
    "eval_batches",
    "open_images",
    "read_example",
    "train_batches",
]

# The published data sets, by config.data.name.
OFFICIAL = {
    "ade20k": ade20k.DATASET,
    "voc2012": voc2012.DATASET,
    "cityscapes": cityscapes.DATASET,
    "pascal_context": pascal_context.DATASET,
    "pascal_context_60": pascal_context.DATASET_60,
}
NAMES = ("shapes", "folder", *OFFICIAL)


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set: its two splits and what their labels mean."""

    train: Source
    val: Source
    labels: LabelSpec


def build(config) -> Data:
    """Opens the data set that config.data describes and checks its annotations over a sample.

    A data set of somebody else's is named by where it can be imported: 'package.module:function', which makes a Data of
    config.data.

    Raises DataError, naming option or file, if an option is out of range, a directory or file is missing, images and
    annotations do not pair, or an annotation holds an id outside the label table.
    """
    check_config(config)
    if ":" in config.name:
        return _imported(config)
    if config.name == "shapes":
        train, val = (
            shapes.ShapesSource(split, count, config.image_size)
            for split, count in (("train", config.num_train), ("val", config.num_val))
        )
        return Data(train, val, shapes.label_spec())
    (train, val), labels = _open(config)
    for source in (train, val):
        check_labels(source, labels, config.on_error)
    return Data(train, val, labels)


def _imported(config) -> Data:
    try:
        make = pkgutil.resolve_name(config.name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"data.name={config.name!r} cannot be imported: {error}") from error
    return make(config)


def open_images(config) -> tuple[Source, LabelSpec]:
    """The images of the validation split (data.val_split) alone, in order, and what is predicted for them.

    Annotations are neither needed nor read: it may be a test split. Raises DataError, naming option or file, if an
    option is out of range or something is missing.
    """
    check_config(config)
    if config.name == "shapes":
        raise DataError("data.name='shapes': generated pictures are no files; name a data set of files")
    if ":" in config.name:
        data = _imported(config)
        return data.val, data.labels
    official = _check_directory(config)
    if official and is_prepared(config.dir, official):
        (source,), labels = located(official, config.dir).open(config.dir, [config.val_split or official.val_split])
        return source, labels
    if official:
        return official.open_images(config.dir, config.val_split or official.val_split)
    split = config.val_split or "val"
    images = folder_images(config.dir, split, config.image_dir)
    return ImageSource(f"{config.dir} ({split})", list(images.values())), read_classes(config.dir)


def _open(config) -> tuple[Sequence[Source], LabelSpec]:
    """The sources of the training and the validation split of a data set of files, and its labels."""
    official = _check_directory(config)
    if official:
        splits = (config.train_split or official.train_split, config.val_split or official.val_split)
        return located(official, config.dir).open(config.dir, splits)
    labels = read_classes(config.dir)
    splits = (config.train_split or "train", config.val_split or "val")
    return [FolderSource(config.dir, split, config.image_dir, config.label_dir) for split in splits], labels


def _check_directory(config) -> Official | None:
    """What reads the published data set of that name, None where the name is 'folder'; DataError without data.dir."""
    official = OFFICIAL.get(config.name)
    expected = official.origin if official else "Expected: images/, annotations/ and classes.json in it."
    if not config.dir:
        raise DataError(f"data.dir is empty: set it to the directory of the data set. {expected}")
    if not tf.io.gfile.isdir(config.dir):
        raise DataError(f"data.dir={config.dir!r} is not a directory. {expected}")
    return official


def check_config(config) -> None:
    """Raises DataError naming the option if a value of config.data is out of range."""

    def require(option: str, holds: bool, expected: str) -> None:
        if not holds:
            raise DataError(f"data.{option}={config[option]!r}: expected {expected}")

    def is_pair(value, kind) -> bool:
        return (
            isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, kind) and v > 0 for v in value)
        )

    known = config.name in NAMES or ":" in config.name
    require("name", known, f"one of {', '.join(NAMES)}, or 'package.module:function'")
    require("batch_size", isinstance(config.batch_size, int) and config.batch_size > 0, "a positive whole number")
    require("on_error", config.on_error in ("stop", "skip"), "'stop' or 'skip'")
    require(
        "scale",
        config.scale is None or is_pair(config.scale, int),
        "None or two positive whole numbers (width, height)",
    )
    require("ratio_range", is_pair(config.ratio_range, (int, float)), "two positive numbers (low, high)")
    require("ratio_range", config.ratio_range[0] <= config.ratio_range[1], "low <= high")
    require("crop", is_pair(config.crop, int), "two positive whole numbers (height, width)")
    require("cat_max_ratio", 0 < config.cat_max_ratio <= 1, "a share in (0, 1]")
    if "black_padding" in config:  # not in the configs of older runs
        require("black_padding", isinstance(config.black_padding, bool), "True or False")
    require("flip", 0 <= config.flip <= 1, "a probability in [0, 1]")
    if config.name == "shapes":
        require("image_size", is_pair(config.image_size, int), "two positive whole numbers (height, width)")
        require("num_train", config.num_train > 0, "a positive whole number")
        require("num_val", config.num_val > 0, "a positive whole number")
