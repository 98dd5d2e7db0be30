"""Data sets and their input pipeline: sources, label tables, augmentation and batches (tf.data, no accelerator).

data = data_pipelines.build(config.data)          # Data(train, val, labels)
batches = data_pipelines.train_batches(data, config.data, seed=0, start_step=0)

The keys of config.data and their defaults are in se_jax/config/options.py.
"""

import dataclasses
import os
import pkgutil
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.quiet import no_greetings

with no_greetings():
    import tensorflow as tf

# The accelerators belong to JAX: TensorFlow would take their memory, and on a TPU the whole chip.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

from data_pipelines import ade20k, cityscapes, pascal_context, shapes, voc2012  # noqa: E402
from data_pipelines.counts import Counts, check_counts, count_pixels  # noqa: E402
from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec  # noqa: E402
from data_pipelines.official import Official  # noqa: E402
from data_pipelines.order import repeat_factors  # noqa: E402
from data_pipelines.pictures import MOST_PIXELS  # noqa: E402
from data_pipelines.pipeline import calibration_batches, eval_batches, train_batches  # noqa: E402
from data_pipelines.records import is_prepared, located  # noqa: E402
from data_pipelines.sources import (  # noqa: E402
    FileSource,
    FolderSource,
    ImageSource,
    Source,
    folder_images,
    read_classes,
    read_example,
)

__all__ = [
    "IGNORE",
    "OFFICIAL",
    "Counts",
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
    "check_config",
    "count_pixels",
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
MOST_CROP = 2**26  # pixels of a crop, or of a generated picture: 0.2 GB a picture
MOST_SIDE = 2**16  # pixels of a side to which images are scaled


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set: its two splits and what their labels mean.

    pixels: {'train', 'val': what was counted in the annotations}; empty for generated pictures.
    warnings: what a report must say of them, such as a class without a pixel.
    repeats: float64 [len(train)], how often an image comes in an epoch of training, on average; None: each once.
    """

    train: Source
    val: Source
    labels: LabelSpec
    pixels: Mapping[str, Counts] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    repeats: np.ndarray | None = None


def build(config) -> Data:
    """Opens the data set that config.data describes and counts the pixels of every class in its annotations.

    All annotations of a small split are read, a sample of a large one; all of the training split with repeat_threshold.
    A data set of somebody else's is named by where it can be imported: 'package.module:function', which makes a Data of
    config.data.

    Raises DataError, naming option or file, if an option is out of range, a directory or file is missing, images and
    annotations do not pair, an annotation holds an id or a colour that means nothing, or if there is nothing to learn:
    no labelled pixel, or one class only.
    """
    check_config(config)
    data = _opened(config)
    if threshold := config.get("repeat_threshold", 0.0):
        train = data.pixels.get("train") or count_pixels(data.train, data.labels, config.on_error, len(data.train))
        data = dataclasses.replace(data, repeats=repeat_factors(train.held, threshold))
    return data


def _opened(config) -> Data:
    """What `build` gives, without repeats."""
    if ":" in config.name:
        return _counted(_imported(config), config)
    if config.name == "shapes":
        splits = (config.get("train_split") or "train", config.get("val_split") or "val")
        train, val = (
            shapes.ShapesSource(split, count, config.image_size)
            for split, count in zip(splits, (config.num_train, config.num_val), strict=True)
        )
        return Data(train, val, shapes.label_spec())
    (train, val), labels = _open(config)
    return _counted(Data(train, val, labels), config)


def _counted(data: Data, config) -> Data:
    """With the options of reading, the counts, and the warnings that follow from them."""
    for source in (data.train, data.val):
        _set_reading(source, config)
    every = len(data.train) if config.get("repeat_threshold", 0.0) else None
    counts = {
        split: count_pixels(source, data.labels, config.on_error, most)
        for split, source, most in (("train", data.train, every), ("val", data.val, None))
    }
    warnings = check_counts(counts["train"], counts["val"], data.labels)
    return dataclasses.replace(data, pixels=counts, warnings=(*data.warnings, *warnings))


def _set_reading(source: Source, config) -> None:
    source.reading = dataclasses.replace(
        source.reading, max_pixels=config.max_pixels, image_bits=config.image_bits, channels=config.get("channels", 3)
    )


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
        source, labels = data.val, data.labels
    elif (official := _check_directory(config)) and is_prepared(config.dir, official):
        (source,), labels = located(official, config.dir).open(config.dir, [config.val_split or official.val_split])
    elif official:
        source, labels = official.open_images(config.dir, config.val_split or official.val_split)
    else:
        split = config.val_split or "val"
        folders = config.get("val_dirs")
        images = folder_images(folders[0] if folders else os.path.join(config.dir, config.image_dir, split))
        source, labels = ImageSource(f"{config.dir} ({split})", list(images.values())), read_classes(config.dir)
    _set_reading(source, config)
    return source, labels


def _open(config) -> tuple[Sequence[Source], LabelSpec]:
    """The sources of the training and the validation split of a data set of files, and its labels."""
    official = _check_directory(config)
    if official:
        splits = (config.train_split or official.train_split, config.val_split or official.val_split)
        return located(official, config.dir).open(config.dir, splits)
    labels = read_classes(config.dir)
    splits = {"train": config.train_split or "train", "val": config.val_split or "val"}
    places = (config.image_dir, config.label_dir)
    return [
        FolderSource(config.dir, split, *places, folders=config.get(f"{kind}_dirs")) for kind, split in splits.items()
    ], labels


def _check_directory(config) -> Official | None:
    """What reads the published data set of that name, None where the name is 'folder'; DataError without data.dir."""
    official = OFFICIAL.get(config.name)
    expected = official.origin if official else "Expected: images/, annotations/ and classes.json in it."
    if not config.dir:
        raise DataError(f"data.dir is empty: set it to the directory of the data set. {expected}")
    if not tf.io.gfile.isdir(config.dir):
        raise DataError(f"data.dir={config.dir!r} is not a directory. {expected}")
    return official


_NEEDED = (
    *("name", "batch_size", "on_error", "cache", "scale", "ratio_range", "crop", "cat_max_ratio", "flip"),
    *("photometric", "max_pixels", "image_bits", "dir"),
)


def check_config(config) -> None:
    """Raises DataError naming the option if a value of config.data is out of range."""

    if not hasattr(config, "keys"):
        raise DataError(f"data is {config!r}: expected options, as in se_jax/config/options.py")
    for option in _NEEDED:
        if option not in config:
            raise DataError(f"data.{option} is missing; the config needs it")

    def require(option: str, holds: bool, expected: str) -> None:
        if not holds:
            raise DataError(f"data.{option}={config[option]!r}: expected {expected}")

    def is_whole(value, low: int, high: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    def is_pair(value, holds) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(holds, value))

    def is_size(value) -> bool:
        return is_pair(value, lambda v: is_whole(v, 1, MOST_CROP)) and value[0] * value[1] <= MOST_CROP

    def is_ratio(value) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.01 <= value <= 100

    def is_share(value) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1

    known = isinstance(config.name, str) and (config.name in NAMES or ":" in config.name)
    pixels = f"whose product is at most {MOST_CROP:,}"
    require("name", known, f"one of {', '.join(NAMES)}, or 'package.module:function'")
    require("batch_size", is_whole(config.batch_size, 1, 2**20), f"a positive whole number of at most {2**20:,}")
    require("on_error", config.on_error in ("stop", "skip"), "'stop' or 'skip'")
    require("cache", isinstance(config.cache, bool), "True or False")
    require(
        "scale",
        config.scale is None or is_size(config.scale),
        f"None or two positive whole numbers (width, height) {pixels}",
    )
    require("ratio_range", is_pair(config.ratio_range, is_ratio), "two positive numbers (low, high) in [0.01, 100]")
    require("ratio_range", config.ratio_range[0] <= config.ratio_range[1], "low <= high")
    require("crop", is_size(config.crop), f"two positive whole numbers (height, width) {pixels}")
    require("cat_max_ratio", is_share(config.cat_max_ratio) and config.cat_max_ratio > 0, "a share in (0, 1]")
    if "black_padding" in config:  # not in the configs of older runs
        require("black_padding", isinstance(config.black_padding, bool), "True or False")
    if "short_sides" in config:
        sides = config.short_sides
        sides = isinstance(sides, (tuple, list)) and all(is_whole(side, 1, MOST_SIDE) for side in sides)
        require("short_sides", sides, f"positive whole numbers of at most {MOST_SIDE:,}, or ()")
    for option, low, high in (("longest_side", 1, MOST_SIDE), ("padding", 0, 255)):
        given = config.get(option)
        require(option, given is None or is_whole(given, low, high), f"None or a whole number of {low} to {high:,}")
    if "hue" in config:
        turns = is_pair(config.hue, lambda turn: is_whole(turn, -90, 90)) and config.hue[0] <= config.hue[1]
        require("hue", turns, "two whole numbers (from, to) of -90 to 90")
    if "antialias" in config:
        require("antialias", isinstance(config.antialias, bool), "True or False")
    require("flip", is_share(config.flip), "a probability in [0, 1]")
    if "rotate" in config:
        angle = isinstance(config.rotate, (int, float)) and 0 <= config.rotate <= 180
        require("rotate", angle, "an angle in degrees, of 0 to 180")
    require("repeat_threshold", is_share(config.get("repeat_threshold", 0.0)), "a share in [0, 1]")
    for option in ("flip_vertical", "grey", "blur", "cutout", "cutout_size", "cutmix", "classmix"):
        require(option, is_share(config.get(option, 0.0)), "a probability or share in [0, 1]")
    if config.get("cutmix", 0.0) + config.get("classmix", 0.0) > 1:
        require(
            "classmix", False, f"at most {1 - config.cutmix:g}, as cutmix is {config.cutmix}: a crop has one of both"
        )
    require("photometric", isinstance(config.photometric, bool), "True or False")
    require("max_pixels", is_whole(config.max_pixels, 1, MOST_PIXELS), f"a whole number of 1 to {MOST_PIXELS:,}")
    require("image_bits", is_whole(config.image_bits, 8, 16), "a whole number of 8 to 16")
    for option in ("dir", "image_dir", "label_dir"):
        require(option, isinstance(config.get(option, ""), str), "text")
    for option in ("train_dirs", "val_dirs"):
        given = config.get(option)  # not in the configs of older runs
        folders = given is None or is_pair(given, lambda folder: isinstance(folder, str))
        require(option, folders, "None or two folders (images, annotations)")
    for option in ("train_split", "val_split"):
        require(option, config.get(option) is None or isinstance(config[option], str), "None or text")
    channels = config.get("channels", 3)  # not in the configs of older runs
    require("channels", channels in (1, 3, 4) and not isinstance(channels, bool), "1, 3 or 4")
    if channels != 3:
        require("channels", config.name != "shapes", "3, as generated pictures are RGB")
        require("grey", not config.get("grey", 0.0), f"0, as data.channels is {channels}: it is of RGB images")
    if channels == 4:
        require("photometric", not config.photometric, "False, as data.channels is 4: hue and saturation are of RGB")
    if config.name == "shapes":
        require("image_size", is_size(config.image_size), f"two positive whole numbers (height, width) {pixels}")
        most = f"a positive whole number of at most {2**31 - 1:,}"
        require("num_train", is_whole(config.num_train, 1, 2**31 - 1), most)
        require("num_val", is_whole(config.num_val, 1, 2**31 - 1), most)
