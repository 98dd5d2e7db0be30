"""The order of training: rare classes come as often as they should, and every place is a function of the seed."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_pipelines
from data_pipelines import train_batches
from data_pipelines.labels import DataError
from data_pipelines.order import Order, repeat_factors
from data_pipelines.pipeline import training_order
from data_pipelines.sources import FileSource


def epochs(order, seed, count):
    """int64 [2, count, places]: indices and slots of the first epochs."""

    def at(place):
        return tf.stack(order.at(seed, 0, place // order.length, place % order.length)[:2])

    places = tf.range(count * order.length, dtype=tf.int64)
    found = tf.function(lambda: tf.map_fn(at, places))().numpy()
    return found.reshape(count, order.length, 2).transpose(2, 0, 1)


def test_repeat_factors_are_the_papers():
    """By hand: of 4 images, class 0 is in all, class 1 in one, class 2 in none."""
    presence = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)[:4]
    np.testing.assert_allclose(repeat_factors(presence, 0.5), [1, np.sqrt(0.5 / 0.25), 1, 1])
    np.testing.assert_array_equal(repeat_factors(presence, 0.2), 1)
    np.testing.assert_array_equal(repeat_factors(np.zeros((2, 3), bool), 0.5), 1)


@settings(deadline=None, max_examples=6)
@given(st.lists(st.floats(1, 4), min_size=1, max_size=12), st.integers(0, 2**31 - 1))
def test_an_image_comes_as_often_as_it_should_rounded_down_or_up(repeats, seed):
    order = Order(len(repeats), np.array(repeats))
    indices, slots = epochs(order, seed, 1)[:, 0]
    assert sorted(slots) == list(range(order.length)) and order.length == round(sum(repeats))
    shares = np.array(repeats) * order.length / sum(repeats)
    counts = np.bincount(indices, minlength=len(repeats))
    assert (counts >= np.floor(shares - 1e-9)).all() and (counts <= np.ceil(shares + 1e-9)).all()


def test_on_average_over_epochs_it_comes_so_often():
    repeats = np.array([1.0, 1.5, 2.25, 1.25])
    shown = epochs(Order(4, repeats), 3, 40)[0]
    counts = sum(np.bincount(epoch, minlength=4) for epoch in shown)
    np.testing.assert_allclose(counts / 40, repeats, atol=0.15)
    assert (shown[0] != shown[1]).any()
    np.testing.assert_array_equal(epochs(Order(4, repeats), 3, 1)[0, 0], shown[0])


def test_training_repeats_images_of_rare_classes(folder_config, monkeypatch):
    """In the one image of five that has it, class 2 is rare: it comes twice an epoch, in two different crops."""
    read, masks = FileSource.label_bytes, []
    monkeypatch.setattr(FileSource, "label_bytes", lambda *of: masks.append(FileSource.label_name(*of)) or read(*of))
    folder_config.update(photometric=False, ratio_range=(1.0, 1.0), crop=(10, 12), batch_size=6, repeat_threshold=0.8)
    rare = f"{folder_config.dir}/annotations/train/im3.png"
    ids = np.array(Image.open(rare))
    ids[0, 0] = 2
    Image.fromarray(ids).save(rare)
    data = data_pipelines.build(folder_config)
    np.testing.assert_allclose(data.repeats, [1, 1, 1, 2, 1])
    assert len(masks) == len(set(masks)) == 10  # each is read once
    straight = list(itertools.islice(train_batches(data, folder_config, seed=2, start_step=0), 3))
    order = training_order(data, seed=2, first=0, last=18)
    for k, batch in enumerate(straight):
        shown = order[6 * k : 6 * k + 6]
        assert sorted(shown) == [0, 1, 2, 3, 3, 4]
        again = [batch["image"][place] for place in range(6) if shown[place] == 3]
        assert (again[0] != again[1]).any()
    halves = [
        next(train_batches(data, folder_config, seed=2, start_step=2, process_index=p, process_count=2)) for p in (0, 1)
    ]
    for key, value in straight[2].items():
        np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), value)
    (calibrated,) = data_pipelines.calibration_batches(data, folder_config, seed=0)
    assert calibrated["valid"].sum() == 5  # once each: statistics are of the data set


def test_a_threshold_that_is_no_share_is_refused(folder_config):
    folder_config.repeat_threshold = 1.5
    with pytest.raises(DataError, match="data.repeat_threshold=1.5: expected a share"):
        data_pipelines.build(folder_config)
