"""Image and annotation files -> arrays. Every path of the library reads pictures here, with the same checks.

What a file is, its content says, not its name. Its size is looked at before its pixels are decoded. Pixels are turned
upright as EXIF says, as the viewers did in which the images were labelled. What would change values is refused: 16 bits
without their range, alpha that hides pixels, JPEG as a mask.
"""

import dataclasses
import io
import os
import stat
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from data_pipelines import png
from data_pipelines.labels import DataError, LabelError, ranges

MOST_PIXELS = 178_000_000  # what the decoders take, of 8 bits a channel
FILES = ("PNG", "JPEG")  # what data sets are made of
PREDICTED = (*FILES, "BMP", "TIFF", "WebP")  # what `predict` takes
SAVE_AS_PNG = "Save it as PNG with 8 bits a channel."
_PILLOW = {"JPEG": ["JPEG", "MPO"], "BMP": ["BMP"], "TIFF": ["TIFF"], "WebP": ["WEBP"], "PPM": ["PPM"]}
GREY, RGB, FOUR = 1, 3, 4  # channels that images may have
# what has one or four channels without a conversion: colour types of PNG files, Pillow's modes of others
_PNG = {GREY: (png.GREY, png.GREY_ALPHA), FOUR: (png.RGBA,)}
_MODES = {GREY: ("L", "I;16", "I;16B", "I;16L", "I", "F"), FOUR: ("RGBA", "RGBX")}
_SAID = {
    png.GREY: "grey",
    png.RGB: "RGB",
    png.PALETTE: "a palette file",
    png.GREY_ALPHA: "grey with alpha",
    png.RGBA: "RGBA",
}
_OTHERS = {
    b"GIF8": "GIF",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"v/1\x01": "OpenEXR",
    b"\0\0\1\0": "icon",
    b"<svg": "SVG",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF": "HDF5",
}
# EXIF's orientation -> how the stored pixels are turned upright
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures are read: config.data's max_pixels, image_bits and channels, and the formats that may come."""

    max_pixels: int = 100_000_000
    image_bits: int = 8
    channels: int = 3
    formats: tuple[str, ...] = (*FILES, "PPM")  # PPM: what sources draw in memory


class Mask(NamedTuple):
    """An annotation as its file has it: ids uint8 [h, w], or colours uint8 [h, w, 3]; palette: uint8 [n, 3] of ids."""

    pixels: np.ndarray
    palette: np.ndarray | None = None


def decode_image(data: bytes, name: str, reading: Reading = Reading()) -> np.ndarray:
    """An image file -> uint8 [h, w, reading.channels], upright; 16-bit channels scaled from reading.image_bits.

    Three channels are RGB, made of whatever there is; a single one is that of a grey file, four are those of RGBA.
    Raises DataError naming the file if it is not whole, too large, of another format, has other channels, or more than
    8 bits a channel while image_bits says 8.
    """
    wanted = reading.channels
    form = _format(data, name, "image", reading.formats)
    if form == "PNG":
        header, _ = _png(data, name, "image", reading)
        if wanted != RGB and header.kind not in _PNG[wanted]:
            raise _other_channels(name, _SAID[header.kind], wanted)
        pixels = _decoded(lambda: png.samples(data, header, wanted), data, name, "image")
        return upright(_eight_bits(pixels, name, reading), png.orientation(data, header))
    image, turn = _pillow(data, name, "image", form, reading)
    if wanted != RGB and image.mode not in _MODES[wanted]:
        raise _other_channels(name, f"of Pillow's mode {image.mode}", wanted)
    if image.mode.startswith("I;16"):
        return upright(_eight_bits(np.stack([np.asarray(image)] * wanted, -1).astype(np.uint16), name, reading), turn)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name}: the image has one channel of 32 bits (Pillow's mode {image.mode}); expected 8 bits a channel. "
            "Scale its values to 0..255 and save it as an 8-bit PNG, all images of the set by the same rule."
        )
    if wanted != RGB:
        return upright(np.asarray(image).reshape(image.height, image.width, wanted), turn)
    try:
        return upright(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), turn)
    except ValueError as error:
        raise DataError(f"{name}: the image has {image.mode} pixels, not RGB: {error}. {SAVE_AS_PNG}") from error


def _other_channels(name: str, found: str, wanted: int) -> DataError:
    expected, save = {
        GREY: ("a grey one", "Save it as a grey file of 8 or 16 bits"),
        FOUR: ("four channels: RGBA, of a PNG or TIFF file", "Save it as a PNG with the fourth channel as its alpha"),
    }[wanted]
    return DataError(
        f"{name}: the image is {found}; expected {expected}, as data.channels is {wanted}. {save}, or give "
        "--config.data.channels=3."
    )


def decode_mask(data: bytes, name: str, reading: Reading = Reading()) -> Mask:
    """An annotation file -> its ids or colours, upright, every sample as the file stores it.

    Grey (1 to 16 bits) and palette files give ids: 1-bit files 0 and 1. RGB files give colours. Alpha must be opaque.
    Raises DataError naming the file if it is not whole, too large, or holds something else.
    """
    form = _format(data, name, "annotation", reading.formats, masks=True)
    if form == "PPM":
        return Mask(np.asarray(_pillow(data, name, "annotation", form, reading)[0]))
    header, chunks = _png(data, name, "annotation", reading)
    pixels = _decoded(lambda: png.stored(data, header, chunks), data, name, "annotation")
    if header.kind in (png.GREY_ALPHA, png.RGBA):
        hidden = int((pixels[..., -1] != np.iinfo(pixels.dtype).max).sum())
        if hidden:
            raise DataError(
                f"{name}: the annotation has an alpha channel that hides {hidden} of {pixels[..., 0].size} pixels; "
                "expected ids or colours without alpha. If transparent means 'no label', give these pixels an id (or a "
                'colour) of their own, list it under "ignore" in classes.json, and save the mask without alpha.'
            )
        pixels = np.ascontiguousarray(pixels[..., 0] if header.kind == png.GREY_ALPHA else pixels[..., :3])
    if pixels.dtype == np.uint16:
        pixels = _narrow(pixels, name)
    palette = None
    if header.kind == png.PALETTE:
        content = bytes(chunks[b"PLTE"][0])
        palette = np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)
    return Mask(upright(pixels, png.orientation(data, header)), palette)


def read_size(file, name: str, reading: Reading = Reading()) -> tuple[int, int]:
    """(height, width) of an open image file, upright, from its header alone; DataError naming it if it has none."""
    head = file.read(32)
    file.seek(0)
    form = _format(head, name, "image", reading.formats, "read")
    try:
        if form == "PNG":
            header = png.read_header(file)
            size = header.height, header.width
            file.seek(0)
            turn = png.orientation(file.read() if header.texts else b"", header)
        else:
            with Image.open(file, formats=_PILLOW[form]) as image:
                size = image.height, image.width
                turn = 1 if form == "TIFF" else _exif(image)  # Pillow turns TIFF files itself, and their sizes
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), name, "image", reading) from error
    except Exception as error:  # Pillow raises whatever damaged bytes lead it to
        raise DataError(f"{name}: the image cannot be read: {error}") from error
    _bound(*size, name, "image", reading)
    return (size[1], size[0]) if turn >= 5 else size


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [h, w, ...] turned and mirrored as EXIF's orientation 1 to 8 says."""
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels


def open_file(path: str):
    """A file opened for reading in binary: a regular one, or what tf.io.gfile opens under a URL; OSError otherwise.

    A pipe would make the reader wait for ever, and a device has no end.
    """
    if "://" in path:
        return tf.io.gfile.GFile(path, "rb")
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("it is no regular file (a directory, a pipe or a device)")
    return open(number, "rb")


def read_bytes(path: str) -> bytes:
    """The content of a file; raises DataError naming it if it cannot be read, or is no regular file."""
    try:
        with open_file(path) as file:
            return file.read()
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def detect(data: bytes) -> str:
    """The format of a picture by its first bytes: PNG, JPEG, BMP, TIFF, WebP, PPM, the name of another, or ''."""
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"BM") and len(data) >= 26:
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] in (b"P5", b"P6"):
        return "PPM"
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or video"
    return next((other for start, other in _OTHERS.items() if data.startswith(start)), "")


def _format(data: bytes, name: str, kind: str, formats: tuple[str, ...], verb: str = "decoded", masks=False) -> str:
    """The format of the file, which is one of `formats`; masks: and keeps ids as they are."""
    form = detect(data)
    if masks and form == "JPEG":
        raise DataError(
            f"{name}: the annotation is a JPEG file; expected PNG. JPEG changes values, so ids near borders become "
            "others: export the masks anew as PNG from the tool that drew them."
        )
    allowed = [f for f in formats if f != "PPM" and (not masks or f == "PNG")]
    if form not in formats or masks and form not in ("PNG", "PPM"):
        found = f"its content is {form}" if form else "its content is no picture's"
        raise DataError(
            f"{name}: the {kind} cannot be {verb} ({len(data)} bytes): {found}; expected {' or '.join(allowed)}, "
            "whatever the name ends with"
        )
    return form


def _png(data: bytes, name: str, kind: str, reading: Reading):
    """Header and chunks of a PNG file whose checksums are right and whose size is allowed."""
    header, chunks = _decoded(lambda: png.parse(data), data, name, kind)
    _bound(header.height, header.width, name, kind, reading)
    return header, chunks


def _decoded(decode, data: bytes, name: str, kind: str):
    try:
        return decode()
    except png.PngError as error:
        raise DataError(f"{name}: the {kind} cannot be decoded ({len(data)} bytes): {error}") from error


def _pillow(data: bytes, name: str, kind: str, form: str, reading: Reading) -> tuple[Image.Image, int]:
    """The decoded picture of a format other than PNG, and its orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW[form]) as image:
            _bound(image.height, image.width, name, kind, reading)
            frames = getattr(image, "n_frames", 1)
            if form in ("TIFF", "WebP") and frames > 1:
                raise DataError(f"{name}: the {kind} holds {frames} pictures, expected one. Save each by itself.")
            if form == "TIFF":
                _refuse_deep_tiff(image, name)
            turn = 1 if form == "TIFF" else _exif(image)  # Pillow turns TIFF files itself
            image.load()
            return image, turn
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), name, kind, reading) from error
    except Exception as error:  # Pillow's plugins raise whatever damaged bytes lead them to
        raise DataError(f"{name}: the {kind} cannot be decoded ({len(data)} bytes): {error}") from error


def _exif(image: Image.Image) -> int:
    try:
        return png.valid_orientation(image.getexif().get(0x0112))
    except Exception:  # a damaged block of EXIF data: viewers show such a file as it is stored
        return 1


def _bound(height: int, width: int, name: str, kind: str, reading: Reading) -> None:
    pixels = height * width
    if pixels > reading.max_pixels:
        more = f" Or set data.max_pixels={pixels} (predict: --max_pixels)." if pixels <= MOST_PIXELS else ""
        raise _too_large(f"{width}x{height}, {pixels:,} pixels", name, kind, reading, more)


def _too_large(found: str, name: str, kind: str, reading: Reading, more: str = "") -> DataError:
    return DataError(
        f"{name}: the {kind} is too large ({found}); expected at most data.max_pixels={reading.max_pixels:,}. Cut it "
        f"into tiles.{more}"
    )


def _refuse_deep_tiff(image: Any, name: str) -> None:
    """Pillow keeps the upper 8 of 16 bits of a TIFF file of several channels, which only its header tells."""
    bits = image.tag_v2.get(258, (1,))  # BitsPerSample
    bits = bits if isinstance(bits, tuple) else (bits,)
    if len(bits) > 1 and max(bits) > 8:
        raise DataError(
            f"{name}: the image is a TIFF file of {len(bits)} channels of {max(bits)} bits, of which only 8 can be "
            "read. Save it as a PNG of 16 bits and set data.image_bits, or scale its values to 0..255 and save 8."
        )


def _eight_bits(pixels: np.ndarray, name: str, reading: Reading) -> np.ndarray:
    """uint8 as it is; uint16 scaled so that the largest value of reading.image_bits becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels
    most = int(pixels.max())
    needed = max(most.bit_length(), 9)
    if reading.image_bits <= 8:
        raise DataError(
            f"{name}: the image has 16 bits a channel (values up to {most}); expected 8. Set data.image_bits to the "
            f"bits that the camera gives ({needed} hold these values; the same for all images): values are then scaled "
            "by 255 / (2**bits - 1) (predict: --image_bits). Or scale the images to 0..255 yourself, all by the same "
            "rule, and save 8-bit PNG."
        )
    top = 2**reading.image_bits - 1
    if most > top:
        raise DataError(
            f"{name}: the image holds the value {most}, but data.image_bits={reading.image_bits} says at most {top}. "
            f"Set data.image_bits={needed} (the same for all images of the set)."
        )
    return ((pixels.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _narrow(pixels: np.ndarray, name: str) -> np.ndarray:
    """uint16 ids as uint8; LabelError names those above 255."""
    if pixels.ndim == 3 and not ((pixels[..., 0] == pixels[..., 1]) & (pixels[..., 0] == pixels[..., 2])).all():
        raise DataError(
            f"{name}: the annotation has colours of 16 bits a channel; expected 8. Export it with 8 bits a channel."
        )
    if pixels.max(initial=0) > 255:
        found = np.unique(pixels)
        raise LabelError(
            f"{name}: the annotation has 16 bits and holds ids {ranges(found[found > 255][:50])}; ids above 255 cannot "
            f"be read (ids found: {ranges(found[:50])}). Give the classes ids of 0..255, for example by a table of old "
            "and new ids that is applied to all masks; saving them with 8 bits as they are would mix classes up."
        )
    return pixels.astype(np.uint8)
