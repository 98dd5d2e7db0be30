"""Images of one's own: sizes for training and evaluation that follow from the files themselves."""

import json
import os
import pathlib
import warnings

from PIL import ExifTags, Image

from se_jax.config.types import ConfigDict

CLASSES = "classes.json"
ENDINGS = (".jpg", ".jpeg", ".png")
LOOKED_AT = 200  # images, evenly from all: their headers alone are read
CROP = 512  # pixels: crops are no larger, a side
SHORT = 1024  # pixels: larger images are scaled to this shorter side


def folder(config: ConfigDict, directory) -> ConfigDict:
    """The config for a data set in the layout of docs/labels.md: images/train, annotations/train, ..., classes.json.

    Raises:
      FileNotFoundError: no such directory or classes.json, or no image. ValueError: classes.json has no classes.
    """
    directory = pathlib.Path(directory)
    path = directory / CLASSES
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file; expected the directory of a data set with images/, annotations/ and classes.json"
        )
    try:
        config.model.num_classes = len(json.loads(path.read_text())["classes"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path} has no list of classes ({error}); expected {{"classes": ["road", "sky"]}}') from error
    config.data.update(name="folder", dir=str(directory))
    return sizes(config, directory / config.data.image_dir / "train")


def sizes(config: ConfigDict, images, multiple: int = 1) -> ConfigDict:
    """The config with crops and scales for the images of a folder; the rules are ours.

    Images keep their own size, unless the shorter side of the typical one is above 1024: then all are fitted to that.
    Crops have the typical size, no side above 512.

    Args:
      multiple: of which sides of crops are, as a network may want it.

    Raises:
      FileNotFoundError: the folder holds no image.
    """
    height, width = typical_size(images)
    if min(height, width) > SHORT:
        factor = SHORT / min(height, width)
        height, width = round(height * factor), round(width * factor)
        config.data.scale = config.eval.scale = (width, height)
    crop = tuple(-(-min(side, CROP) // multiple) * multiple for side in (height, width))
    config.data.crop = crop
    return config


def typical_size(images) -> tuple[int, int]:
    """(height, width), upright, that lies in the middle of those of a folder's images; sub-folders are looked through.

    Raises:
      FileNotFoundError: there is no folder, or no image in it that can be opened.
    """
    paths = sorted(
        pathlib.Path(place) / name
        for place, _, names in os.walk(images, followlinks=True)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )
    found = [size for path in paths[:: -(-len(paths) // LOOKED_AT) or 1] if (size := upright_size(path)) is not None]
    if not found:
        raise FileNotFoundError(f"{images} holds no image ({', '.join(ENDINGS)}; sub-folders were looked through)")
    heights, widths = (sorted(sides) for sides in zip(*found, strict=True))
    return heights[len(found) // 2], widths[len(found) // 2]


def upright_size(path) -> tuple[int, int] | None:
    """(height, width) of an image file, upright, by its header alone.

    None where it cannot be read: whoever reads the pixels says why.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # by a quarter
            return (picture.width, picture.height) if turned else (picture.height, picture.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
