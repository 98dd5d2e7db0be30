"""Images of one channel and of four, from the file to the batch."""

import io

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import eval_batches, train_batches
from data_pipelines.labels import DataError
from data_pipelines.pictures import PREDICTED, Reading, decode_image

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 30, 4), dtype=np.uint8)


def encoded(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_one_and_four_channels_are_read_as_they_are(form):
    grey, four = (Reading(channels=n, formats=PREDICTED) for n in (1, 4))
    np.testing.assert_array_equal(decode_image(encoded(PIXELS[..., 0], form), "x", grey), PIXELS[..., :1])
    transparent = PIXELS * (PIXELS[..., 3:] > 99)  # alpha is a channel like the others: nothing is made black by it
    for pixels in (PIXELS, transparent):
        np.testing.assert_array_equal(decode_image(encoded(pixels, form), "x", four), pixels)


def test_grey_images_of_16_bits_are_scaled_by_their_bits():
    """As a scanner gives them: 12 bits in 16."""
    values = RANDOM.integers(0, 4096, (6, 7)).astype(np.uint16)
    found = decode_image(encoded(values), "x", Reading(channels=1, image_bits=12))
    assert abs(found[..., 0] - values * (255 / 4095)).max() <= 0.5
    with pytest.raises(DataError, match="scan.png: the image has 16 bits a channel"):
        decode_image(encoded(values), "scan.png", Reading(channels=1))


@pytest.mark.parametrize("channels, file, found", [
    (1, encoded(PIXELS[..., :3]), "is RGB; expected a grey one, as data.channels is 1"),
    (1, encoded(PIXELS[..., :3], "JPEG"), "mode RGB; expected a grey one, as data.channels is 1"),
    (4, encoded(PIXELS[..., :3]), "is RGB; expected four channels: RGBA, .* as data.channels is 4"),
    (4, encoded(PIXELS[..., 0]), "is grey; expected four channels"),
])  # fmt: skip
def test_other_channels_are_refused_by_name(channels, file, found):
    with pytest.raises(DataError, match=f"im.png: the image .*{found}.*--config.data.channels=3"):
        decode_image(file, "im.png", Reading(channels=channels))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_folder_of_such_images_gives_such_batches(folder_config, channels):
    images = folder_config.dir + "/images"
    for split in ("train", "val"):
        for k in range(5):
            path = f"{images}/{split}/im{k}.png"
            red = np.asarray(Image.open(path))[..., :1]
            Image.fromarray(red[..., 0] if channels == 1 else np.concatenate([red, red, red, 255 - red], -1)).save(path)
    folder_config.update(channels=channels, photometric=channels == 1, batch_size=4, blur=0.5, cutmix=0.5)
    data = data_pipelines.build(folder_config)
    batch = next(train_batches(data, folder_config, seed=0, start_step=0))
    assert batch["image"].shape == (4, 16, 24, channels) and batch["image"].dtype == np.uint8
    if channels == 4:  # what is done to the colours is done to the fourth channel
        inside = batch["image"][batch["label"] < 255].astype(int)
        assert (abs(inside[:, 0] + inside[:, 3] - 255) <= 1).mean() > 0.9
    shapes = {batch["image"].shape for batch in eval_batches(data.val, data.labels, 2)}
    assert shapes == {(2, 20, 30, channels), (2, 24, 18, channels)}


@pytest.mark.parametrize("options, message", [
    ({"channels": 2}, "data.channels=2: expected 1, 3 or 4"),
    ({"channels": 4}, "data.photometric=True: expected False, as data.channels is 4"),
    ({"channels": 1, "grey": 0.5}, "data.grey=0.5: expected 0, as data.channels is 1"),
    ({"channels": 1, "name": "shapes"}, "data.channels=1: expected 3, as generated pictures are RGB"),
])  # fmt: skip
def test_what_is_of_colours_is_refused_by_its_option(folder_config, options, message):
    folder_config.update(**options)
    with pytest.raises(DataError, match=message):
        data_pipelines.check_config(folder_config)
