"""Images to predict: read from files, found in folders, taken as arrays; and masks written as files."""

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from se_jax.config.own_data import upright_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


def as_image(given, *, channels: int = 3, **reading) -> np.ndarray:
    """An image as uint8 [h, w, channels], RGB mostly: given as such an array, as a PIL image, or as the path of a file.

    Args:
      channels: config.data's; of 1, arrays may be [h, w].
      reading: of `read_image`, for files.

    Raises:
      ValueError: it is something else.
    """
    if isinstance(given, (str, pathlib.Path)):
        return read_image(given, channels=channels, **reading)
    if isinstance(given, Image.Image):
        return _pixels(given, channels, "the PIL image")
    image = np.asarray(given)
    if channels == 1 and image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
        raise ValueError(
            f"predict takes uint8 [height, width, {channels}]{' (RGB)' * (channels == 3)}, PIL images or paths; got "
            f"{image.dtype} {list(image.shape)}"
        )
    return image


def _pixels(picture: Image.Image, channels: int, name: str) -> np.ndarray:
    """uint8 [h, w, channels] of a PIL image, upright; ValueError where it has others. Anything becomes RGB."""
    picture = ImageOps.exif_transpose(picture)
    if channels == 3:
        return np.asarray(picture.convert("RGB"))
    if picture.mode != MODES.get(channels):
        raise ValueError(
            f"{name} has pixels of Pillow's mode {picture.mode}; expected {MODES.get(channels)}, as data.channels is "
            f"{channels}"
        )
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def visible(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, channels] as RGB to look at: grey ones in all three, else the first three."""
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def resized(image: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """uint8 [h, w, channels] as Pillow resizes each of its channels to `size` (height, width)."""
    parts = [Image.fromarray(image[..., k]).resize((size[1], size[0]), how) for k in range(image.shape[2])]
    return np.stack([np.asarray(part) for part in parts], axis=-1)


def size_of(image) -> tuple[int, int] | None:
    """(height, width) of an array, or of a file by its header; None where that cannot be read."""
    return image.shape[:2] if isinstance(image, np.ndarray) else upright_size(image)


def save_ids(path, ids: np.ndarray, palette: np.ndarray | None) -> None:
    """Write uint8 ids [h, w] as an 8-bit PNG: a palette file with colours uint8 [K, 3], or without them a grey one."""
    picture = Image.fromarray(ids)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)


def read_image(path, *, max_pixels: int | None = None, image_bits: int | None = None, channels: int = 3) -> np.ndarray:
    """An image file as uint8 [h, w, channels], RGB mostly, upright as EXIF says; read as training reads its images.

    PNG, JPEG, BMP, TIFF or WebP by its content. The options are config.data's, whose defaults they have.
    Where tensorflow is not installed Pillow alone reads the file: with 8 bits a channel only, and without a look at the
    checksums of a PNG's pixels.

    Raises:
      ValueError: the file is no such image, no regular file, truncated or damaged, larger than max_pixels, or has more
        than 8 bits a channel while image_bits says 8; names it.
    """
    try:
        from data_pipelines import pictures  # only here: it brings tensorflow
    except ModuleNotFoundError:
        return _read_with_pillow(pathlib.Path(path), max_pixels or Image.MAX_IMAGE_PIXELS, channels)
    options = {"max_pixels": max_pixels, "image_bits": image_bits}
    given = {name: value for name, value in options.items() if value is not None}
    reading = pictures.Reading(formats=pictures.PREDICTED, channels=channels, **given)
    return pictures.decode_image(pictures.read_bytes(str(path)), str(path), reading)


def _read_with_pillow(path: pathlib.Path, max_pixels: int | None, channels: int = 3) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP")) as picture:
            if max_pixels and picture.width * picture.height > max_pixels:
                raise ValueError(
                    f"{path} is too large ({picture.width}x{picture.height}); expected {max_pixels:,} pixels"
                )
            with path.open("rb") as file:
                deep = picture.format == "PNG" and file.read(25)[24] > 8  # Pillow has reduced what it does not keep
            if deep or picture.mode.startswith(("I", "F")):
                raise ValueError(f"{path} has more than 8 bits a channel; save it with 8, or install the extra `data`")
            return _pixels(picture, channels, str(path))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no PNG, JPEG, BMP, TIFF or WebP image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's words for damaged files
        raise ValueError(f"{path} is a truncated or damaged image, or too large: {error}") from None


def find_images(path) -> list[pathlib.Path]:
    """The file itself, or everything below a folder that is named like an image, sorted.

    Raises:
      FileNotFoundError: nothing is there, or no image is.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not found:
        raise FileNotFoundError(f"{path}: no image below this folder (looked for {', '.join(SUFFIXES)})")
    return found
