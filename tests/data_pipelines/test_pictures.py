"""Files -> pixels: as they are stored, upright, whole, their size looked at first; or an error that names the file."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

import data_pipelines
from data_pipelines import pictures, png
from data_pipelines.labels import DataError, LabelError, LabelSpec
from data_pipelines.pictures import PREDICTED, Reading, decode_image, decode_mask, read_size
from data_pipelines.sources import FolderSource, read_example

LABELS = LabelSpec.create(["ground", "thing", "other"])
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (13, 21, 3), dtype=np.uint8)
FILES = Reading(formats=pictures.FILES)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(samples, depth, kind, height=None, extra=b""):
    """A PNG of rows of bytes as they are; `height` may promise more rows than there are."""
    rows = b"".join(b"\0" + bytes(row) for row in samples)
    width = (
        len(samples[0]) * 8 // depth // {png.GREY: 1, png.RGB: 3, png.PALETTE: 1, png.GREY_ALPHA: 2, png.RGBA: 4}[kind]
    )
    header = struct.pack(">IIBBBBB", width, height or len(samples), depth, kind, 0, 0, 0)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return png.SIGNATURE + content


def png16(array, kind):
    """A PNG of 16 bits a sample of uint16 [h, w] or [h, w, channels]."""
    return raw_png([row.tobytes() for row in array.astype(">u2").reshape(len(array), -1)], 16, kind)


# ---- What a PNG stores ----


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
def test_images_are_what_pillow_gives(mode):
    image = Image.fromarray(NOISE).convert(mode)
    np.testing.assert_array_equal(decode_image(encoded(image), "x"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_of_any_depth_are_read_as_stored(bits):
    """Pillow stretches grey samples of 2 and 4 bits to 0..255."""
    ids = RANDOM.integers(0, 2**bits, (13, 24), dtype=np.uint8)
    packed = np.packbits(np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(13, -1), axis=1)
    grey = decode_mask(raw_png(packed, bits, png.GREY), "x")
    np.testing.assert_array_equal(grey.pixels, ids)
    assert grey.palette is None
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette(bytes(range(3, 3 + 3 * 2**bits)) if bits < 8 else bytes(768))
    mask = decode_mask(encoded(image, bits=bits), "x")
    np.testing.assert_array_equal(mask.pixels, ids)
    assert mask.palette.shape == (2**bits, 3)


def test_a_one_bit_mask_is_0_and_1(folder):
    """Masks saved from a boolean array."""
    path = folder / "annotations" / "train" / "im0.png"
    ids = RANDOM.integers(0, 2, (20, 30)).astype(bool)
    Image.fromarray(ids).save(path)
    _, label = read_example(FolderSource(folder, "train"), LABELS, 0)
    np.testing.assert_array_equal(label, ids)


def test_16_bit_ids_below_256_are_read_and_others_refused_by_number():
    ids = RANDOM.integers(0, 200, (5, 7)).astype(np.uint16)
    np.testing.assert_array_equal(decode_mask(png16(ids, png.GREY), "x").pixels, ids)
    equal = np.stack([ids] * 3, -1)
    np.testing.assert_array_equal(decode_mask(png16(equal, png.RGB), "x").pixels, equal)
    ids[0, 0], ids[1, 1] = 1000, 256
    with pytest.raises(
        LabelError, match=r"set/x.png: the annotation has 16 bits and holds ids 256, 1000; ids above 255"
    ):
        decode_mask(png16(ids, png.GREY), "set/x.png")
    equal[0, 0] = (1, 2, 3)
    with pytest.raises(DataError, match="x.png: the annotation has colours of 16 bits a channel; expected 8"):
        decode_mask(png16(equal, png.RGB), "x.png")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_is_no_matter_and_another_is_refused(mode):
    image = Image.fromarray(NOISE[..., 0] % 3).convert(mode)
    mask = decode_mask(encoded(image), "x").pixels
    np.testing.assert_array_equal(mask if mask.ndim == 2 else mask[..., 0], NOISE[..., 0] % 3)
    image.putpixel((3, 2), (*image.getpixel((3, 2))[:-1], 0))
    with pytest.raises(DataError, match=r"x.png: the annotation has an alpha channel that hides 1 of 273 pixels"):
        decode_mask(encoded(image), "x.png")


# ---- Whole files ----


@pytest.mark.parametrize("kind", ["L", "P", "RGB"])
def test_a_flipped_bit_is_named(kind):
    data = encoded(Image.fromarray(NOISE).convert(kind))
    for decode in (decode_image, decode_mask):
        for place in range(8, len(data), 7):
            damaged = bytearray(data)
            damaged[place] ^= 16
            with pytest.raises(
                DataError, match=r"a/x.png: the (image|annotation) cannot be decoded .*(broken|truncated)"
            ):
                decode(bytes(damaged), "a/x.png")


@pytest.mark.parametrize("kind", [png.GREY, png.PALETTE, png.RGB])
def test_missing_rows_are_no_zeros(kind):
    """Pillow fills the rows with zeros."""
    row = bytes(range(12))
    palette = chunk(b"PLTE", bytes(768)) if kind == png.PALETTE else b""
    data = raw_png([row] * 5, 8, kind, height=10, extra=palette)
    with pytest.raises(DataError, match="x.png: the annotation cannot be decoded .*fewer than its header says"):
        decode_mask(data, "x.png")
    if kind != png.PALETTE:
        with pytest.raises(DataError, match="x.png: the image cannot be decoded .*fewer than its header says"):
            decode_image(data, "x.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_cut_file_is_named(form):
    data = encoded(NOISE, form)
    for size in (0, 5, 20, 33, len(data) // 2, len(data) - 20):
        with pytest.raises(DataError, match=r"x: the image cannot be decoded \(\d+ bytes\)"):
            decode_image(data[:size], "x")
    if form == "PNG":
        with pytest.raises(DataError, match="truncated: it ends after .* before its last chunk"):
            decode_image(data[:-12], "x")


@pytest.mark.parametrize("interlaced", [0, 1])
def test_notes_in_a_png_change_nothing(interlaced):
    note = PngImagePlugin.PngInfo()
    note.add(b"gAMA", (22000).to_bytes(4, "big"))
    note.add_text("Raw profile type exif", "nonsense")
    data = encoded(NOISE, interlace=interlaced, pnginfo=note)
    np.testing.assert_array_equal(decode_image(data, "x"), NOISE)


# ---- EXIF ----


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pixels_and_sizes_are_upright(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(NOISE, form, exif=exif)
    reading = Reading(formats=PREDICTED)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, "x", reading), expected)
    assert read_size(io.BytesIO(data), "x", reading) == expected.shape[:2]
    if form == "PNG":
        np.testing.assert_array_equal(decode_mask(data, "x").pixels, expected)


def test_a_photo_that_was_turned_meets_its_mask(folder, folder_config):
    """Stored lying, drawn on upright; evaluation plans by the upright size."""
    path = folder / "images" / "val" / "im0.png"
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = np.asarray(image)
    image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif, quality=100, subsampling=0)
    path.unlink()
    data = data_pipelines.build(folder_config)
    assert data.val.size(0) == (20, 30)
    image, _ = read_example(data.val, data.labels, 0)
    assert np.abs(image.astype(int) - expected).mean() < 2
    batches = list(data_pipelines.eval_batches(data.val, data.labels, 1))
    assert sorted(int(i) for batch in batches for i in batch["index"]) == list(range(5))


def test_damaged_exif_is_no_orientation():
    data = encoded(NOISE)
    place = data.index(b"IDAT") - 4
    data = data[:place] + chunk(b"eXIf", b"MM\0*nonsense") + data[place:]
    np.testing.assert_array_equal(decode_image(data, "x"), NOISE)


# ---- 16 bits ----


@pytest.mark.parametrize("kind, channels", [(png.GREY, 1), (png.GREY_ALPHA, 2), (png.RGB, 3), (png.RGBA, 4)])
def test_16_bit_images_are_refused_or_scaled(kind, channels):
    values = RANDOM.integers(0, 4096, (6, 9, channels))
    values[0, 0, 0] = 4095
    if channels % 2 == 0:
        values[..., -1] = 65535
    data = png16(values, kind)
    with pytest.raises(
        DataError, match=r"x.png: the image has 16 bits a channel \(values up to 4095\).*data.image_bits"
    ):
        decode_image(data, "x.png")
    found = decode_image(data, "x.png", Reading(image_bits=12))
    expected = np.broadcast_to(values[..., : 3 if channels > 2 else 1], (6, 9, 3))
    np.testing.assert_allclose(found, expected * 255 / 4095, atol=0.51)
    with pytest.raises(
        DataError, match=r"value 4095, but data.image_bits=10 says at most 1023. Set data.image_bits=12"
    ):
        decode_image(data, "x.png", Reading(image_bits=10))
    np.testing.assert_array_equal(decode_image(encoded(NOISE), "y", Reading(image_bits=12)), NOISE)


def test_deep_tiff_files():
    reading = Reading(formats=PREDICTED)
    grey = RANDOM.integers(0, 4096, (6, 9)).astype(np.uint16)
    with pytest.raises(DataError, match="b.tif: the image has 16 bits a channel"):
        decode_image(encoded(grey, "TIFF"), "b.tif", reading)
    found = decode_image(encoded(grey, "TIFF"), "b.tif", Reading(formats=PREDICTED, image_bits=12))
    np.testing.assert_allclose(found[..., 0], grey * (255 / 4095), atol=0.51)
    for dtype in (np.int32, np.float32):
        with pytest.raises(DataError, match="b.tif: the image has one channel of 32 bits"):
            decode_image(encoded(grey.astype(dtype), "TIFF"), "b.tif", reading)
    several = io.BytesIO()
    Image.fromarray(NOISE).save(several, "TIFF", save_all=True, append_images=[Image.fromarray(NOISE)])
    with pytest.raises(DataError, match="b.tif: the image holds 2 pictures, expected one"):
        decode_image(several.getvalue(), "b.tif", reading)


def test_the_option_reaches_training(folder, folder_config):
    for split in ("train", "val"):
        for path in (folder / "images" / split).glob("*.png"):
            path.write_bytes(png16(np.asarray(Image.open(path)).astype(np.uint16) * 16, png.RGB))
    folder_config.update(photometric=False, ratio_range=(1.0, 1.0))
    data = data_pipelines.build(folder_config)
    with pytest.raises(DataError, match="im.*png: the image has 16 bits a channel"):
        next(data_pipelines.train_batches(data, folder_config, seed=0, start_step=0))
    folder_config.image_bits = 12
    data = data_pipelines.build(folder_config)
    batch = next(data_pipelines.train_batches(data, folder_config, seed=0, start_step=0))
    assert batch["image"].max() == 199  # 200 * 16 / 4095 * 255


# ---- Formats, sizes, kinds of files ----


def test_content_decides_and_only_some_formats_are_read():
    jpeg = encoded(NOISE, "JPEG")
    assert decode_image(jpeg, "named.png", FILES).shape == (13, 21, 3)
    for form in ("GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "EPS"):
        data = encoded(NOISE, form)
        with pytest.raises(
            DataError, match="x.png: the image cannot be decoded .*expected PNG or JPEG, whatever the name"
        ):
            decode_image(data, "x.png", FILES)
        with pytest.raises(
            DataError, match="x.png: the annotation cannot be decoded .*expected PNG, whatever the name"
        ):
            decode_mask(data, "x.png", FILES)
    for form in ("BMP", "TIFF", "WEBP"):
        assert decode_image(encoded(NOISE, form), "x", Reading(formats=PREDICTED)).shape == (13, 21, 3)
    with pytest.raises(DataError, match="x.png: the annotation is a JPEG file; expected PNG. JPEG changes values"):
        decode_mask(jpeg, "x.png", FILES)


def test_the_size_is_bounded_before_pixels_are_decoded():
    """Of images and masks, in pixels and in headers: 22000 x 22000 pixels in a few bytes."""
    bomb = png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 22000, 22000, 8, 0, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    for read in (decode_image, decode_mask, lambda data, name: read_size(io.BytesIO(data), name)):
        with pytest.raises(DataError, match=r"x.png: the .* is too large \(22000x22000.*data.max_pixels=100,000,000"):
            read(bomb, "x.png")
    for form in PREDICTED:
        data = encoded(NOISE, form)
        for read in (decode_image, lambda data, name, reading: read_size(io.BytesIO(data), name, reading)):
            with pytest.raises(
                DataError, match=r"too large \(21x13, 273 pixels\); expected at most data.max_pixels=272"
            ):
                read(data, "x", Reading(max_pixels=272, formats=PREDICTED))


def test_the_bound_reaches_training_and_evaluation(folder, folder_config):
    folder_config.max_pixels = 500
    with pytest.raises(DataError, match=r"annotations/train/im0.png: the annotation is too large \(30x20"):
        data_pipelines.build(folder_config)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_a_pipe_does_not_hang(folder, folder_config, kind):
    path = folder / kind / "train" / "im1.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"train/im1.png cannot be read: it is no regular file"):
        source = data_pipelines.build(folder_config).train
        read_example(source, LABELS, 1)
    if kind == "images":
        with pytest.raises(DataError, match=r"train/im1.png: the image cannot be read: it is no regular file"):
            FolderSource(folder, "train").size(1)
