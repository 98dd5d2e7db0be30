"""PNG files: their chunks, every one with its checksum, and their pixels as the file stores them.

Pillow skips the checksums, gives rows that are missing as zeros, and reduces or stretches samples that have not 8 bits;
libpng, as TensorFlow calls it, does none of it. PNG's own header says what a file holds: PNG specification, third
edition, sections 5 and 11.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 4, RGBA: 4}  # in which they are decoded; 2 cannot be
MOST_BYTES = 2**29 - 1  # of pixels, which TensorFlow decodes
_STRETCH = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}  # libpng's factor from grey samples of so many bits to 8
_HEAD = struct.Struct(">I4s")
_IHDR = struct.Struct(">IIBBBBB")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # where eXIf's predecessors have the orientation


class PngError(ValueError):
    """A PNG file is not whole, or not as the specification has it; the message does not name the file."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a PNG file says of itself.

    depth: bits a sample. kind: colour type. exif: content of the eXIf chunk, if any. texts: whether other chunks may
    hold an orientation.
    """

    width: int
    height: int
    depth: int
    kind: int
    interlaced: int = 0
    exif: bytes = b""
    texts: bool = False


def parse(data: bytes) -> tuple[Header, dict[bytes, list[memoryview]]]:
    """The header of a file and the contents of its chunks by type; every checksum has been compared.

    Raises PngError if the file ends early, a checksum is wrong, or the header cannot be.
    """
    view, chunks, position = memoryview(data), {}, len(SIGNATURE)
    while b"IEND" not in chunks:
        if position + 12 > len(data):
            raise PngError(f"truncated: it ends after {len(data)} bytes, before its last chunk (IEND)")
        length, kind = _HEAD.unpack_from(data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise PngError(f"truncated: it ends after {len(data)} bytes, within the chunk {_said(kind)} at {position}")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise PngError(f"broken: the checksum of the chunk {_said(kind)} at byte {position} is wrong")
        if not chunks and kind != b"IHDR":
            raise PngError(f"broken: it starts with the chunk {_said(kind)}, not with IHDR")
        chunks.setdefault(kind, []).append(view[position + 8 : end])
        position = end + 4
    header = _header(bytes(chunks[b"IHDR"][0]))
    notes = [note for key in _TEXTS for note in chunks.get(key, ())]
    texts = any(bytes(note[:22]).startswith(_EXIF_TEXTS) for note in notes)
    if header.kind == PALETTE and b"PLTE" not in chunks:
        raise PngError("broken: it has palette pixels, but no palette (PLTE)")
    return dataclasses.replace(header, exif=bytes(chunks.get(b"eXIf", [b""])[0]), texts=texts), chunks


def read_header(file) -> Header:
    """The header of an open file, of which only heads of chunks are read; PngError if it cannot be."""
    head = file.read(len(SIGNATURE) + 8 + _IHDR.size + 4)
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise PngError(f"truncated or broken: no header (IHDR) in its first {len(head)} bytes")
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        raise PngError("broken: the checksum of its header (IHDR) is wrong")
    header, exif, texts = _header(head[16:29]), b"", False
    while len(start := file.read(8)) == 8:
        length, kind = _HEAD.unpack(start)
        if kind == b"IEND":
            break
        if kind == b"eXIf":
            exif = file.read(min(length, 1 << 20))
            length -= len(exif)
        elif kind in _TEXTS:
            text = file.read(min(length, 22))
            texts |= text.startswith(_EXIF_TEXTS)
            length -= len(text)
        file.seek(length + 4, io.SEEK_CUR)
    return dataclasses.replace(header, exif=exif, texts=texts)


def samples(data: bytes, header: Header, channels: int) -> np.ndarray:
    """The pixels, uint8 or (of 16 bits) uint16 [h, w, channels], as libpng converts them to so many channels.

    Raises PngError if there are fewer pixels than the header says, or they cannot be decompressed.
    """
    size = header.width * header.height * channels * (2 if header.depth == 16 else 1)
    if size > MOST_BYTES:
        raise PngError(f"too large: its pixels take {size:,} bytes, at most {MOST_BYTES:,} can be decoded")
    try:
        return tf.io.decode_png(data, channels, tf.uint16 if header.depth == 16 else tf.uint8).numpy()
    except tf.errors.InvalidArgumentError:
        raise PngError("broken: its compressed pixels are damaged, or fewer than its header says") from None


def stored(data: bytes, header: Header, chunks: dict[bytes, list[memoryview]]) -> np.ndarray:
    """The samples as they are stored, not stretched: [h, w] of grey or palette files, else [h, w, 3 or 4].

    Those of a palette file are its indices. Raises PngError as `samples`.
    """
    if header.kind == PALETTE:  # libpng gives colours; as a grey file, the same samples
        ihdr = _IHDR.pack(header.width, header.height, header.depth, GREY, 0, 0, header.interlaced)
        pixels = [(b"IDAT", bytes(content)) for content in chunks.get(b"IDAT", ())]
        data = SIGNATURE + b"".join(_written([(b"IHDR", ihdr), *pixels, (b"IEND", b"")]))
    pixels = samples(data, header, CHANNELS[header.kind])
    if pixels.shape[2] > 1:
        return pixels
    return pixels[..., 0] // np.uint8(_STRETCH[header.depth]) if header.depth < 8 else pixels[..., 0]


def orientation(data: bytes, header: Header) -> int:
    """EXIF's orientation, 1 to 8; 1 where none is said."""
    if header.texts:
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                return valid_orientation(image.getexif().get(0x0112))
        except Exception:  # Pillow's readers of such texts raise whatever the bytes lead them to
            return 1
    return exif_orientation(header.exif)


def exif_orientation(content: bytes) -> int:
    """The orientation in a block of EXIF data; 1 where there is none, or none that can be read."""
    if not content:
        return 1
    exif = Image.Exif()
    try:
        exif.load(content)
        return valid_orientation(exif.get(0x0112))
    except Exception:  # see above; viewers show such a file as it is stored
        return 1


def valid_orientation(value) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _header(content: bytes) -> Header:
    if len(content) != _IHDR.size:
        raise PngError(f"broken: its header (IHDR) has {len(content)} bytes")
    width, height, depth, kind, _, _, interlaced = _IHDR.unpack(content)
    if not width or not height or depth not in DEPTHS.get(kind, ()):
        raise PngError(f"broken: its header says {width}x{height} pixels of colour type {kind} with {depth} bits")
    return Header(width, height, depth, kind, interlaced)


def _written(chunks) -> Iterator[bytes]:
    for kind, content in chunks:
        yield _HEAD.pack(len(content), kind) + content + zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")


def _said(kind: bytes) -> str:
    return kind.decode("latin-1") if kind.isalpha() else repr(kind)
