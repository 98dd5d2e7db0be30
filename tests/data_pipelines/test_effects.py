"""Further augmentation: against PIL and numpy, and off by default to the bit."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_pipelines import DataError, check_config, effects, transforms
from data_pipelines.effects import Effects
from data_pipelines.transforms import Augmentation
from se_jax.config import options

OFF = Augmentation(crop=(24, 32), flip=0.0, photometric=False, ratio_range=(1.0, 1.0), cat_max_ratio=1.0)
SEED = tf.constant([3, 1], tf.int64)


def picture(height=24, width=32):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    image = np.stack([5 * y, 7 * x, rng.integers(0, 255, (height, width))], -1).astype(np.uint8)
    return image, ((y // 8) * 3 + x // 8).astype(np.uint8)


def augmented(seed=SEED, **changes):
    out = transforms.augment(*picture(), seed, dataclasses.replace(OFF, effects=Effects(**changes)))
    return out["image"].numpy(), out["label"].numpy()


def test_a_quarter_and_a_half_turn_are_exact():
    image, label = picture(25, 25)
    for turns in (1, 2, 3):
        turned, ids = effects.rotate(image, label, tf.constant(90.0 * turns))
        np.testing.assert_array_equal(ids, np.rot90(label, turns))
        assert np.abs(np.int32(turned) - np.rot90(image, turns)).max() <= 1


@pytest.mark.parametrize("degrees", [10.0, -37.0])
def test_rotation_is_pillows(degrees):
    image, label = picture(31, 41)
    turned, ids = effects.rotate(image, label, tf.constant(degrees))
    expected = np.asarray(Image.fromarray(label).rotate(degrees, Image.Resampling.NEAREST, fillcolor=255))
    assert (ids.numpy() != expected).mean() < 0.01  # pixels halfway between two
    expected = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))
    difference = np.abs(np.int32(turned) - expected)[3:-3, 3:-3]
    inside = (ids.numpy() != 255)[3:-3, 3:-3]
    assert np.median(difference[inside]) <= 1


def test_grey_and_blur_are_pillows():
    image, _ = picture()
    expected = np.asarray(Image.fromarray(image).convert("L"))
    found = effects.grey(image).numpy()
    assert np.abs(np.int32(found) - expected[..., None]).max() <= 1 and found.shape == image.shape
    noise = np.full((21, 21, 3), 0, np.uint8)
    noise[10, 10] = 255
    weights = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    weights /= weights.sum()
    found = effects.blur(noise, tf.constant(1.2)).numpy()[6:15, 6:15, 0]
    assert np.abs(found - 255 * weights[:, None] * weights).max() <= 0.51 and found.sum() > 200
    flat = effects.blur(np.full((5, 3, 3), 77, np.uint8), tf.constant(2.0))
    np.testing.assert_array_equal(flat, 77)  # smaller than the filter, and the border is repeated


def test_cutout_is_a_black_rectangle_and_the_label_stays():
    image, label = augmented(cutout=1.0, cutout_size=0.5)
    plain, same = augmented()
    np.testing.assert_array_equal(label, same)
    rows, columns = np.nonzero((image != plain).any(-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert 0 < height <= 12 and 0 < width <= 16
    assert not image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].any()


def test_vertical_flip_moves_both_and_chance_is_obeyed():
    plain, same = augmented()
    image, label = augmented(flip_vertical=1.0)
    np.testing.assert_array_equal(image, plain[::-1])
    np.testing.assert_array_equal(label, same[::-1])
    seeds = [tf.constant([0, k], tf.int64) for k in range(60)]
    share = np.mean([np.array_equal(augmented(seed, flip_vertical=0.3)[0], plain) for seed in seeds])
    assert 0.5 < share < 0.9


def test_effects_take_no_random_numbers_from_the_others():
    crop = dataclasses.replace(OFF, crop=(12, 16), flip=0.5)
    still = dataclasses.replace(crop, effects=Effects(grey=1.0))
    for k in range(4):
        seed = tf.constant([k, 2], tf.int64)
        a, b = (transforms.augment(*picture(), seed, each) for each in (crop, still))
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(effects.grey(a["image"]), b["image"])


@pytest.mark.parametrize(
    ("change", "message"), [({"rotate": 200.0}, "data.rotate=200.0"), ({"blur": 1.5}, "data.blur=1.5.*probability")]
)
def test_what_cannot_be_is_named(change, message):
    config = options.get_config().data
    config.update(change)
    with pytest.raises(DataError, match=message):
        check_config(config)
