"""CutMix and ClassMix: what is pasted, from where, and that it is a function of (seed, step)."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import data_pipelines
from data_pipelines import mixing
from se_jax.config import check, options


def crop(image, label, size=(8, 10), status=0, message=""):
    return {
        "image": tf.fill([8, 10, 3], tf.constant(image, tf.uint8)),
        "label": tf.constant(label, tf.uint8) * tf.ones([8, 10], tf.uint8),
        "size": tf.constant(size),
        "status": tf.constant(status),
        "message": tf.constant(message),
    }


def draws(*first):
    return tf.constant([*first, *np.random.default_rng(0).random(mixing.NUMBERS + 255 - len(first))], tf.float32)


def test_a_rectangle_of_the_other_crop_is_pasted_inside_both():
    mixed = mixing.mix(crop(1, 1), crop(2, 2, size=(4, 6), status=1, message="x"), draws(0.0, 0.25, 0.99, 0.0), 0.5)
    expected = np.ones((8, 10), np.uint8)
    expected[2:4, 0:3] = 2  # a quarter of 4 x 6, at the last row and the first column
    np.testing.assert_array_equal(mixed["label"], expected)
    np.testing.assert_array_equal(mixed["image"], np.repeat(expected[..., None], 3, -1))
    assert mixed["status"] == 1 and mixed["message"] == b"x" and (mixed["size"].numpy() == (8, 10)).all()


def test_half_of_the_classes_are_pasted_and_nothing_ignored():
    columns = np.array([0, 0, 3, 3, 5, 5, 254, 254, 7, 255])
    found = set()
    for k in range(12):
        numbers = tf.constant(np.random.default_rng(k).random(255), tf.float32)
        part = mixing.half_of_classes(np.tile(np.uint8(columns), (8, 1)), numbers).numpy()
        picked = set(columns[part[0]])
        assert len(picked) == 2 and 255 not in picked and (part == np.isin(columns, list(picked))).all()
        found |= picked
    assert found == {0, 3, 5, 7, 254}


def test_mixed_batches_are_a_function_of_seed_and_step():
    config = options.get_config().data
    config.update(batch_size=4, num_train=6, num_val=1, image_size=(24, 32), crop=(16, 16))
    data = data_pipelines.build(config)

    def batches(start, count, **changes):
        config.update(changes)
        found = data_pipelines.train_batches(data, config, seed=1, start_step=start)
        return list(itertools.islice(found, count))

    plain = batches(0, 3)
    mixed = batches(0, 3, cutmix=0.3, classmix=0.4)
    changed = [(a["label"] != b["label"]).any((1, 2)) for a, b in zip(plain, mixed, strict=True)]
    assert 0.2 < np.mean(changed) < 1
    (again,) = batches(2, 1)
    for name, values in mixed[2].items():
        np.testing.assert_array_equal(again[name], values)


def test_probabilities_that_exceed_one_are_named():
    config = options.get_config()
    config.data.update(cutmix=0.6, classmix=0.5)
    with pytest.raises(ValueError, match="data.classmix is 0.5; expected at most 0.4"):
        check.check(config)
    with pytest.raises(data_pipelines.DataError, match="data.classmix=0.5: expected at most 0.4"):
        data_pipelines.check_config(config.data)
