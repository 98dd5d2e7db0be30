"""Images to predict: read from files, found in folders, taken as arrays; and masks written as files."""

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from se_jax.config.own_data import upright_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def as_image(given, **reading) -> np.ndarray:
    """An image as uint8 [h, w, 3] RGB: given as such an array, as a PIL image, or as the path of a file.

    Args:
      reading: of `read_image`, for files.

    Raises:
      ValueError: it is something else.
    """
    if isinstance(given, (str, pathlib.Path)):
        return read_image(given, **reading)
    if isinstance(given, Image.Image):
        return np.asarray(ImageOps.exif_transpose(given).convert("RGB"))
    image = np.asarray(given)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"predict takes uint8 [height, width, 3] (RGB), PIL images or paths; got {image.dtype} {list(image.shape)}"
        )
    return image


def size_of(image) -> tuple[int, int] | None:
    """(height, width) of an array, or of a file by its header; None where that cannot be read."""
    return image.shape[:2] if isinstance(image, np.ndarray) else upright_size(image)


def save_ids(path, ids: np.ndarray, palette: np.ndarray | None) -> None:
    """Write uint8 ids [h, w] as an 8-bit PNG: a palette file with colours uint8 [K, 3], or without them a grey one."""
    picture = Image.fromarray(ids)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)


def read_image(path, *, max_pixels: int | None = None, image_bits: int | None = None) -> np.ndarray:
    """An image file as uint8 [h, w, 3] RGB, upright as EXIF says; read as training reads its images.

    PNG, JPEG, BMP, TIFF or WebP by its content. max_pixels, image_bits: as config.data's, whose defaults they have.
    Where tensorflow is not installed Pillow alone reads the file: with 8 bits a channel only, and without a look at the
    checksums of a PNG's pixels.

    Raises:
      ValueError: the file is no such image, no regular file, truncated or damaged, larger than max_pixels, or has more
        than 8 bits a channel while image_bits says 8; names it.
    """
    try:
        from data_pipelines import pictures  # only here: it brings tensorflow
    except ModuleNotFoundError:
        return _read_with_pillow(pathlib.Path(path), max_pixels or Image.MAX_IMAGE_PIXELS)
    options = {"max_pixels": max_pixels, "image_bits": image_bits}
    given = {name: value for name, value in options.items() if value is not None}
    reading = pictures.Reading(formats=pictures.PREDICTED, **given)
    return pictures.decode_image(pictures.read_bytes(str(path)), str(path), reading)


def _read_with_pillow(path: pathlib.Path, max_pixels: int | None) -> np.ndarray:
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
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
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
