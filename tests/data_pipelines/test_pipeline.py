import itertools
import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import data_pipelines
from data_pipelines import calibration_batches, eval_batches, train_batches
from data_pipelines.labels import DataError
from se_jax.models.segmenter import normalize

take = itertools.islice


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.fixture
def data(shapes_config):
    return data_pipelines.build(shapes_config)


def test_train_batches_have_the_agreed_arrays(data, shapes_config):
    batch = next(train_batches(data, shapes_config, seed=0, start_step=0))
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
        "image": ((4, 32, 40, 3), np.uint8),
        "label": ((4, 32, 40), np.uint8),
        "size": ((4, 2), np.int32),
    }


def test_a_batch_is_a_function_of_seed_and_step(data, shapes_config):
    """Two runs agree, and one resumed at any step goes on with the very batches of the straight one."""
    straight = list(take(train_batches(data, shapes_config, seed=5, start_step=0), 8))
    for start in (0, 1, 6):
        resumed = take(train_batches(data, shapes_config, seed=5, start_step=start), 2)
        for k, batch in enumerate(resumed):
            same(batch, straight[start + k])
    other = next(train_batches(data, shapes_config, seed=6, start_step=0))
    assert (other["image"] != straight[0]["image"]).mean() > 0.3
    far = train_batches(data, shapes_config, seed=5, start_step=10**7)
    assert (next(far)["image"] != straight[0]["image"]).mean() > 0.3


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_seed(data, shapes_config, seed):
    assert next(train_batches(data, shapes_config, seed=seed, start_step=0))


def test_a_cache_changes_nothing_and_decodes_once(data, shapes_config):
    plain = list(take(train_batches(data, shapes_config, seed=1, start_step=0), 6))
    shapes_config.cache = True
    cached = data_pipelines.build(shapes_config)
    for a, b in zip(take(train_batches(cached, shapes_config, seed=1, start_step=0), 6), plain, strict=True):
        same(a, b)
    assert sorted(cached.train.decoded) == list(range(10))
    assert not data.train.decoded


def test_a_cache_that_is_full_changes_nothing_either(data, shapes_config):
    plain = list(take(train_batches(data, shapes_config, seed=1, start_step=0), 6))
    shapes_config.cache = True
    cached = data_pipelines.build(shapes_config)
    cached.train.decoded.limit = 3 * 32 * 48 * 4
    for a, b in zip(take(train_batches(cached, shapes_config, seed=1, start_step=0), 6), plain, strict=True):
        same(a, b)
    assert len(cached.train.decoded) == 3


def test_black_padding_counts_as_content(data, shapes_config):
    shapes_config.update(crop=(96, 40), photometric=False)  # higher than any picture: 32 pixels at most doubled
    plain = next(train_batches(data, shapes_config, seed=1, start_step=0))
    shapes_config.black_padding = True
    batch = next(train_batches(data, shapes_config, seed=1, start_step=0))
    assert (plain["size"][:, 0] < 96).all() and (batch["size"] == [96, 40]).all()
    same({**batch, "size": plain["size"]}, plain)
    for image, label, (height, width) in zip(*(plain[key] for key in ("image", "label", "size")), strict=True):
        assert not image[height:].any() and (label[height:] == 255).all() and (label[:, width:] == 255).all()
    black = -np.array([123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]  # as the reference has it
    for padded, value in ((plain, 0), (batch, black)):
        bottom = np.asarray(normalize(padded["image"], padded["size"]))[:, -1]
        np.testing.assert_allclose(bottom, np.broadcast_to(value, bottom.shape), atol=1e-6)


def test_a_config_without_the_option_pads_as_before(data, shapes_config):
    shapes_config.crop = (96, 40)
    wanted = next(train_batches(data, shapes_config, seed=1, start_step=0))
    del shapes_config.black_padding
    data_pipelines.check_config(shapes_config)
    same(next(train_batches(data, shapes_config, seed=1, start_step=0)), wanted)


def test_two_processes_give_the_batch_of_one(data, shapes_config):
    one = take(train_batches(data, shapes_config, seed=2, start_step=3), 4)
    parts = [
        take(train_batches(data, shapes_config, seed=2, start_step=3, process_index=p, process_count=2), 4)
        for p in range(2)
    ]
    for whole, *halves in zip(one, *parts, strict=True):
        same(joined(halves), whole)


def images_of(batches, count=5):
    """How often each image of the folder fixture (recognised by its red level) is in `batches`."""
    levels = [int(level) for batch in batches for level in batch["image"][:, -1, -1, 0]]
    return np.bincount(np.array(levels) // 10, minlength=count)


def test_every_epoch_has_every_image_once(folder_config):
    folder_config.update(batch_size=5, photometric=False, ratio_range=(1.0, 1.0), crop=(18, 18), flip=0.0)
    data = data_pipelines.build(folder_config)
    batches = list(take(train_batches(data, folder_config, seed=0, start_step=0), 6))
    orders = {tuple(batch["image"][:, -1, -1, 0].tolist()) for batch in batches}
    for batch in batches:
        assert images_of([batch]).tolist() == [1] * 5
    assert len(orders) > 2


@pytest.mark.parametrize("processes", [1, 2])
def test_calibration_has_every_image_once(folder_config, processes):
    folder_config.update(photometric=False, ratio_range=(1.0, 1.0), crop=(18, 18), flip=0.0)
    data = data_pipelines.build(folder_config)
    parts = [
        list(calibration_batches(data, folder_config, seed=0, process_index=p, process_count=processes))
        for p in range(processes)
    ]
    batches = [joined(step) for step in zip(*parts, strict=True)]
    assert [batch["valid"].sum() for batch in batches] == [4, 1]
    kept = [{"image": batch["image"][batch["valid"]]} for batch in batches]
    assert images_of(kept).tolist() == [1] * 5


def test_calibration_of_a_part_takes_different_images(folder_config):
    folder_config.update(photometric=False, ratio_range=(1.0, 1.0), crop=(18, 18), flip=0.0)
    data = data_pipelines.build(folder_config)
    batches = list(calibration_batches(data, folder_config, seed=0, max_images=3))
    assert len(batches) == 1 and batches[0]["valid"].tolist() == [True, True, True, False]
    assert images_of([{"image": batches[0]["image"][:3]}]).max() == 1
    with pytest.raises(DataError, match="max_images must be at least 1, found 0"):
        calibration_batches(data, folder_config, seed=0, max_images=0)


@pytest.mark.parametrize("batch_size, processes", [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2)])
def test_evaluation_has_every_image_once_unchanged(folder_config, batch_size, processes):
    data = data_pipelines.build(folder_config)
    parts = [
        list(eval_batches(data.val, data.labels, batch_size, process_index=p, process_count=processes))
        for p in range(processes)
    ]
    batches = [joined(step) for step in zip(*parts, strict=True)]
    seen = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert sorted(seen) == list(range(5))
    for batch in batches:
        assert len(batch["valid"]) == batch_size
        for image, label, valid, index in zip(*(batch[k] for k in ("image", "label", "valid", "index")), strict=True):
            if valid:
                same(
                    dict(zip("xy", data_pipelines.read_example(data.val, data.labels, index), strict=True)),
                    {"x": image, "y": label},
                )
            else:
                assert index == -1 and (label == 255).all() and (image == 0).all()


# ---- bad input ----


def break_image(folder, split, name):
    path = folder / "images" / split / name
    path.write_bytes(path.read_bytes()[:60])


def test_an_unreadable_file_stops_training_with_its_name(folder, folder_config):
    data = data_pipelines.build(folder_config)
    break_image(folder, "train", "im2.png")
    with pytest.raises(DataError, match=r"images/train/im2.png: the image cannot be decoded.*\n.*data.on_error='skip'"):
        list(take(train_batches(data, folder_config, seed=0, start_step=0), 2))
    with pytest.raises(DataError, match=r"im2.png"):
        list(calibration_batches(data, folder_config, seed=0))


def test_an_unreadable_file_is_skipped_counted_and_named_once(folder, folder_config, caplog):
    folder_config.update(on_error="skip", batch_size=5)
    data = data_pipelines.build(folder_config)
    break_image(folder, "train", "im2.png")
    with caplog.at_level(logging.WARNING):
        first = list(take(train_batches(data, folder_config, seed=0, start_step=0), 4))
    assert data.train.skipped.total() == 4
    assert len(caplog.messages) == 1 and "images/train/im2.png" in caplog.messages[0]
    for a, b in zip(take(train_batches(data, folder_config, seed=0, start_step=0), 4), first, strict=True):
        same(a, b)
    calibration = list(calibration_batches(data, folder_config, seed=0))
    assert sum(batch["valid"].sum() for batch in calibration) == 4


def test_a_set_with_nothing_readable_stops_even_when_skipping(folder, folder_config):
    folder_config.on_error = "skip"
    data = data_pipelines.build(folder_config)
    for k in range(5):
        break_image(folder, "train", f"im{k}.png")
    with pytest.raises(DataError, match=r"not one of the 5 examples of .*set \(train\) can be read"):
        next(train_batches(data, folder_config, seed=0, start_step=0))


def test_evaluation_stops_at_or_leaves_out_what_it_cannot_read(folder, folder_config):
    data = data_pipelines.build(folder_config)
    break_image(folder, "val", "im1.png")  # the header is whole, the pixels are cut
    (folder / "images" / "val" / "im4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"im4.png: the image cannot be read"):
        list(eval_batches(data.val, data.labels, 2))
    batches = list(eval_batches(data.val, data.labels, 2, on_error="skip"))
    assert sorted(np.concatenate([batch["index"][batch["valid"]] for batch in batches])) == [0, 2, 3]
    assert sum("im1.png" in message for message in data.val.skipped) == 1
    assert data.val.skipped.total() == 2
    bad = [batch for batch in batches if batch["label"].shape[1:] == (24, 18)][0]
    assert (bad["label"][~bad["valid"]] == 255).all()


def test_a_wrong_id_is_never_skipped(folder, folder_config):
    folder_config.on_error = "skip"
    data = data_pipelines.build(folder_config)
    Image.fromarray(np.full((20, 30), 77, np.uint8)).save(folder / "annotations" / "train" / "im0.png")
    with pytest.raises(DataError, match=r"annotations/train/im0.png: the annotation holds ids 77 that"):
        list(take(train_batches(data, folder_config, seed=0, start_step=0), 2))


@pytest.mark.parametrize("processes, batch_size", [(3, 4), (2, 1)])
def test_a_batch_that_does_not_divide(data, shapes_config, processes, batch_size):
    shapes_config.batch_size = batch_size
    with pytest.raises(DataError, match=f"data.batch_size={batch_size} must be a positive multiple of the {processes}"):
        train_batches(data, shapes_config, seed=0, start_step=0, process_count=processes)


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("name", "cityscape", "one of shapes, folder, ade20k, voc2012"),
        ("name", None, "one of shapes"),
        ("batch_size", 0, "a positive whole number"),
        ("batch_size", -4, "a positive whole number of at most 1,048,576"),
        ("batch_size", True, "a positive whole number"),
        ("cache", 1, "True or False"),
        ("photometric", None, "True or False"),
        ("crop", (1000000, 1000000), "whose product is at most 67,108,864"),
        ("scale", (10**9, 10**9), "whose product is at most 67,108,864"),
        ("image_size", (10**6, 10**6), "whose product is at most 67,108,864"),
        ("ratio_range", (float("nan"), 1.0), r"in \[0.01, 100\]"),
        ("ratio_range", (0.5, float("inf")), r"in \[0.01, 100\]"),
        ("ratio_range", (0.5, 1.0, 2.0), "two positive numbers"),
        ("flip", float("nan"), "a probability"),
        ("cat_max_ratio", float("nan"), "a share"),
        ("max_pixels", 0, "a whole number of 1 to 178,000,000"),
        ("max_pixels", 10**9, "a whole number of 1 to 178,000,000"),
        ("image_bits", 7, "a whole number of 8 to 16"),
        ("image_bits", 32, "a whole number of 8 to 16"),
        ("num_train", 10**12, "at most 2,147,483,647"),
        ("crop", (0, 10), r"two positive whole numbers \(height, width\)"),
        ("crop", (8, 8, 8), "two positive whole numbers"),
        ("scale", (10, -1), "None or two positive whole numbers"),
        ("ratio_range", (2.0, 1.0), "low <= high"),
        ("cat_max_ratio", 0.0, "a share"),
        ("black_padding", None, "True or False"),
        ("padding", 256, "None or a whole number of 0 to 255"),
        ("short_sides", (512, 0), "positive whole numbers"),
        ("short_sides", None, "positive whole numbers"),
        ("longest_side", 0, "None or a whole number of 1"),
        ("hue", (18, -18), r"two whole numbers \(from, to\)"),
        ("antialias", None, "True or False"),
        ("flip", 1.5, "a probability"),
        ("on_error", "ignore", "'stop' or 'skip'"),
        ("image_size", (0, 0), "two positive whole numbers"),
        ("num_train", 0, "a positive whole number"),
        ("num_val", -1, "a positive whole number"),
    ],
)
def test_options_out_of_range_are_named(shapes_config, option, value, expected):
    with shapes_config.ignore_type():
        shapes_config[option] = value
    with pytest.raises(DataError, match=rf"data\.{option}=.*: expected .*{expected}"):
        data_pipelines.build(shapes_config)


def test_tensorflow_sees_no_accelerator():
    assert not tf.config.get_visible_devices("GPU") and not tf.config.get_visible_devices("TPU")
