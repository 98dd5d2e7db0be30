import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import transforms
from data_pipelines.transforms import Augmentation

bilinear = tf.function(transforms.resize_window_bilinear, reduce_retracing=True)
nearest = tf.function(transforms.resize_window_nearest, reduce_retracing=True)
SETTINGS = settings(max_examples=25, deadline=None)


def picture(height, width, classes=3, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return tf.constant(image), tf.constant(random.integers(0, classes, (height, width), dtype=np.uint8))


def difference(actual, reference):
    """(greatest difference, share of values that differ) of two uint8 arrays."""
    apart = np.abs(np.asarray(actual).astype(int) - np.asarray(reference).astype(int))
    return apart.max(), (apart > 0).mean()


# ---- held by the reference (mmcv.imrescale and PhotoMetricDistortion on OpenCV) ----


def test_rescaled_sizes_are_the_reference_s(golden):
    meta = golden("pipeline_ops").meta
    for case, (width, height) in meta["rescale_size_wh"].items():
        size, scale = ([int(n) for n in part.replace("x", ",").split(",")] for part in case.split("@"))
        assert transforms.rescaled_size(size[::-1], scale).numpy().tolist() == [height, width], case
    for case in meta["rescale"]:
        assert transforms.rescaled_size((90, 123), case["scale"]).numpy().tolist() == case["hw"]


@pytest.mark.parametrize("case", range(4))
def test_resized_pixels_are_the_reference_s(golden, case):
    """Labels equal; images within one level, on one value in eight, as OpenCV truncates in fixed point."""
    arrays = golden("pipeline_ops")
    image, label = tf.constant(arrays["in/img_bgr_u8"]), tf.constant(arrays["in/label"])
    size = tf.constant(arrays.meta["rescale"][case]["hw"])
    resized = bilinear(image, size, tf.constant([0, 0]), size)
    greatest, share = difference(resized, arrays[f"res/img/{case}"])
    assert greatest <= 1 and share < 0.13
    np.testing.assert_array_equal(nearest(label, size, tf.constant([0, 0]), size), arrays[f"res/label/{case}"])


def test_photometric_operations_are_the_reference_s(golden):
    arrays = golden("pipeline_ops")
    image = tf.constant(arrays["in/img_bgr_u8"][..., ::-1].copy())
    values = arrays.meta["pmd_params"]
    bgr = {
        "brightness": transforms.linear(image, 1.0, values["beta"]),
        "contrast": transforms.linear(image, values["alpha"], 0.0),
        "saturation": transforms.change_saturation(image, values["sat"]),
        "hue": transforms.change_hue(image, values["hue"]),
    }
    for name, result in bgr.items():
        # OpenCV's vector code does 32 pixels at a time and truncates; its code for the last columns rounds.
        vectors = difference(result.numpy()[:, :96, ::-1], arrays[f"pmd/{name}"][:, :96])
        rest = difference(result.numpy()[:, 96:, ::-1], arrays[f"pmd/{name}"][:, 96:])
        exact = name in ("brightness", "contrast")
        assert vectors == (0, 0) if exact else vectors[0] <= 1 and vectors[1] < 3e-4, name
        assert rest == (0, 0) if exact else rest[0] <= 1, name
    hsv = np.stack([plane.numpy() for plane in transforms.rgb_to_hsv(image)], -1)
    np.testing.assert_array_equal(hsv, arrays["pmd/hsv"])


# ---- properties ----


def test_the_fixed_point_divisors_are_opencv_s():
    """Computed in float32 here, tabulated from float64 there."""
    k = np.arange(1, 256)
    for numerator in (255 * 4096, 30 * 4096):
        np.testing.assert_array_equal(np.round(np.float32(numerator) / k.astype(np.float32)), np.round(numerator / k))


@SETTINGS
@given(st.data())
def test_scaling_a_window_gives_the_pixels_of_the_scaled_whole(data):
    """Crop before scale: labels equal, images equal but for values on the edge of rounding (often at simple ratios)."""
    height, width = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    size = [max(1, round(n * data.draw(st.floats(0.4, 2.5)))) for n in (height, width)]
    corner = [data.draw(st.integers(0, n - 1)) for n in size]
    extent = [data.draw(st.integers(1, n - c)) for n, c in zip(size, corner, strict=True)]
    image, label = picture(height, width)
    window = np.s_[corner[0] : corner[0] + extent[0], corner[1] : corner[1] + extent[1]]
    arguments = tf.constant(size), tf.constant(corner), tf.constant(extent)
    whole = tf.constant(size), tf.constant([0, 0]), tf.constant(size)
    assert difference(bilinear(image, *arguments), bilinear(image, *whole).numpy()[window])[0] <= 1
    np.testing.assert_array_equal(nearest(label, *arguments), nearest(label, *whole).numpy()[window])


def test_scaling_a_window_rounds_as_the_scaled_whole_does():
    image, _ = picture(300, 400)
    size = tf.constant([417, 571])
    whole = bilinear(image, size, tf.constant([0, 0]), size).numpy()
    window = bilinear(image, size, tf.constant([111, 222]), tf.constant([200, 300]))
    greatest, share = difference(window, whole[111:311, 222:522])
    assert greatest <= 1 and share < 1e-3


def test_rows_and_columns_one_after_the_other_are_the_kernels_own_result():
    image, _ = picture(37, 53)
    for size in ((90, 31), (20, 160)):
        scale = tf.cast(np.divide(size, image.shape[:2]), tf.float32)
        whole = tf.raw_ops.ScaleAndTranslate(
            images=image[None], size=size, scale=scale, translation=[0.0, 0.0], kernel_type="triangle", antialias=False
        )[0]
        found = bilinear(image, tf.constant(size), tf.constant([0, 0]), tf.constant(size))
        np.testing.assert_array_equal(found, tf.cast(tf.clip_by_value(whole + 0.5, 0, 255), tf.uint8))


def test_a_picture_at_its_own_size_is_unchanged():
    image, label = picture(33, 47)
    whole = tf.constant([33, 47]), tf.constant([0, 0]), tf.constant([33, 47])
    np.testing.assert_array_equal(bilinear(image, *whole), image)
    np.testing.assert_array_equal(nearest(label, *whole), label)


@SETTINGS
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_augment_gives_the_crop_size_and_pads_after_the_content(height, width, seed, photometric):
    options = Augmentation(crop=(24, 40), photometric=photometric)
    image, label = picture(height, width)
    out = augment_function(options)(image, label, tf.constant([seed, 1], tf.int64))
    assert out["image"].shape == (24, 40, 3) and out["label"].shape == (24, 40)
    h, w = out["size"].numpy()
    assert 1 <= h <= 24 and 1 <= w <= 40
    label = out["label"].numpy()
    assert (label[:h, :w] != 255).all() and (label[h:] == 255).all() and (label[:, w:] == 255).all()
    assert (out["image"].numpy()[h:] == 0).all() and (out["image"].numpy()[:, w:] == 0).all()
    least = min(height // 2 / height, width // 2 / width)  # the ratio 0.5 after its truncation to whole pixels
    assert min(24, least * height - 0.5) <= h <= min(24, 2 * height)
    assert min(40, least * width - 0.5) <= w <= min(40, 2 * width)


FUNCTIONS = {}


def augment_function(options):
    if options not in FUNCTIONS:
        FUNCTIONS[options] = tf.function(
            lambda image, label, seed: transforms.augment(image, label, seed, options),
            input_signature=[
                tf.TensorSpec([None, None, 3], tf.uint8),
                tf.TensorSpec([None, None], tf.uint8),
                tf.TensorSpec([2], tf.int64),
            ],
        )
    return FUNCTIONS[options]


def test_the_same_seed_gives_the_same_picture():
    augment = augment_function(Augmentation(crop=(24, 40)))
    image, label = picture(50, 60)
    results = [augment(image, label, tf.constant(seed, tf.int64))["image"].numpy() for seed in ((1, 2), (1, 2), (1, 3))]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).mean() > 0.5


def test_image_and_label_move_together():
    """With the label painted into the image, every augmented pixel still shows its own label."""
    options = Augmentation(crop=(32, 32), photometric=False)
    label = np.zeros((40, 50), np.uint8)
    label[10:30, 5:20], label[22:, 30:] = 1, 2
    image = np.repeat(label[..., None] * 100, 3, -1)
    flipped = 0
    for seed in range(20):
        out = augment_function(options)(tf.constant(image), tf.constant(label), tf.constant([seed, 0], tf.int64))
        h, w = out["size"].numpy()
        shown, truth = out["image"].numpy()[:h, :w, 0] / 100, out["label"].numpy()[:h, :w]
        inside = np.isclose(shown % 1, 0)  # not blended between two classes
        assert (shown[inside] == truth[inside]).mean() > 0.97
        flipped += truth[:, : w // 2].mean() > truth[:, w // 2 :].mean()
    assert 2 < flipped < 18


def test_the_random_size_follows_the_base_and_the_ratio():
    own, base = Augmentation(crop=(8, 8)), Augmentation(crop=(8, 8), scale=(2048, 512))
    for draw, ratio in ((0.0, 0.5), (0.5, 1.25)):
        assert transforms.random_size(tf.constant([360, 480]), draw, own).numpy().tolist() == [360 * ratio, 480 * ratio]
        # 375x500 into (int(2048 r), int(512 r)): the short side decides
        height = int(375 * (512 * ratio / 375) + 0.5)
        width = int(500 * (512 * ratio / 375) + 0.5)
        assert transforms.random_size(tf.constant([375, 500]), draw, base).numpy().tolist() == [height, width]


@pytest.mark.parametrize(
    "label, varied",
    [
        ([0, 0, 0, 1], False),  # exactly 0.75
        ([0, 0, 1, 1], True),
        ([0, 0, 1, 255], True),  # ignored pixels do not count
        ([0, 255, 255, 255], False),
        ([255, 255, 255, 255], False),
        ([0, 0, 0, 0], False),
    ],
)
def test_the_class_ratio_rule(label, varied):
    assert bool(transforms.is_varied(tf.constant([label], tf.uint8), 0.75)) == varied


def test_a_dominated_crop_is_drawn_again_ten_times_and_the_last_taken():
    """A label that is varied in one small place: the crop is the first of eleven draws that holds it, or the last."""
    height, width, crop = 20, 60, 20
    label = np.zeros((height, width), np.uint8)
    label[:, :10] = 1
    options = Augmentation(crop=(crop, crop))
    image = np.repeat(np.arange(width, dtype=np.uint8)[None, :, None], height, 0).repeat(
        3, -1
    )  # column number as colour
    size = tf.constant([height, width])
    random = np.random.default_rng(0)
    accepted = set()
    for _ in range(40):
        draws = random.random((transforms.REDRAWS + 1, 2)).astype(np.float32)
        columns = (draws[:, 1] * (width - crop + 1)).astype(int)
        good = [k for k, c in enumerate(columns[:-1]) if 0.25 < (label[0, c : c + crop] == 1).mean() < 0.75]
        wanted = columns[good[0]] if good else columns[-1]
        picture, _ = transforms.random_crop(tf.constant(image), tf.constant(label), size, tf.constant(draws), options)
        assert picture.numpy()[0, 0, 0] == wanted
        accepted.add(good[0] if good else transforms.REDRAWS)
    assert transforms.REDRAWS in accepted and len(accepted) > 3
    any_crop = Augmentation(crop=(crop, crop), cat_max_ratio=1.0)
    picture, _ = transforms.random_crop(tf.constant(image), tf.constant(label), size, tf.constant(draws), any_crop)
    assert picture.numpy()[0, 0, 0] == columns[0]


def test_photometric_steps_happen_half_the_time_in_their_order():
    image, _ = picture(8, 8)
    nothing = transforms.photometric_distortion(image, tf.constant([0.1] + [0.9] * 8))
    np.testing.assert_array_equal(nothing, image)
    brighter = transforms.photometric_distortion(image, tf.constant([0.1, 0.1] + [0.9] * 3 + [0.75] + [0.9] * 3))
    np.testing.assert_array_equal(brighter, transforms.linear(image, 1.0, 16.0))
    for coin in (0.1, 0.9):  # contrast 1.4, saturation 0.7
        draws = tf.constant([coin, 0.9, 0.1, 0.1, 0.9, 0.5, 0.9, 0.2, 0.5])
        steps = [lambda x: transforms.linear(x, 1.4, 0.0), lambda x: transforms.change_saturation(x, 0.7)]
        wanted = image
        for step in steps if coin < 0.5 else steps[::-1]:
            wanted = step(wanted)
        np.testing.assert_array_equal(transforms.photometric_distortion(image, draws), wanted)


@SETTINGS
@given(st.integers(-18, 17))
def test_grey_pixels_keep_their_colour(turn):
    grey = tf.constant(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1))
    assert difference(transforms.change_hue(grey, turn), grey)[0] <= 1
    assert difference(transforms.change_saturation(grey, 1.4), grey)[0] <= 1


# ---- detectron2's ways ----


@pytest.mark.parametrize("height, width, size", [(90, 123, (31, 40)), (60, 41, (97, 66)), (50, 50, (50, 20))])
def test_antialiased_pixels_are_pils(height, width, size):
    image, _ = picture(height, width)
    expected = PIL.Image.fromarray(image.numpy()).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    resized = transforms.resize_window_antialiased(image, tf.constant(size), tf.constant([0, 0]), tf.constant(size))
    greatest, share = difference(resized, expected)
    assert greatest <= 1 and share < 0.02
    corner, extent = tf.constant([size[0] // 3, size[1] // 4]), tf.constant([size[0] // 2, size[1] // 2])
    window = transforms.resize_window_antialiased(image, tf.constant(size), corner, extent)
    (top, left), (rows, columns) = corner.numpy(), extent.numpy()
    greatest, share = difference(window, resized.numpy()[top : top + rows, left : left + columns])
    assert greatest <= 1 and share < 0.02


def test_the_shorter_side_is_one_of_the_list_and_the_longer_one_limited():
    def size(draw, height, width, **options):
        return transforms.random_size(tf.constant([height, width]), draw, Augmentation((8, 8), **options)).numpy()

    sides = (256, 307, 1024)
    found = [size(draw, 360, 480, short_sides=sides).tolist() for draw in (0.0, 0.34, 1 - 2**-24)]
    assert found == [[256, 341], [307, 409], [1024, 1365]]
    assert size(0.0, 480, 360, short_sides=sides, longest_side=300).tolist() == [300, 225]


def test_padding_of_a_grey_counts_as_content():
    image, label = picture(10, 12)
    options = Augmentation(crop=(16, 16), short_sides=(10,), padding=128, photometric=False, flip=0.0)
    out = augment_function(options)(image, label, tf.constant([0, 1], tf.int64))
    assert out["size"].numpy().tolist() == [16, 16]
    shown, truth = out["image"].numpy(), out["label"].numpy()
    np.testing.assert_array_equal(shown[:10, :12], image)
    assert (shown[10:] == 128).all() and (shown[:, 12:] == 128).all()
    assert (truth[10:] == 255).all() and (truth[:, 12:] == 255).all()


def test_the_hue_turns_to_both_ends():
    """A pure red, turned by -18 and by 18 steps of two degrees."""
    image = tf.constant(np.full((1, 1, 3), (255, 0, 0), np.uint8))
    draws = np.ones(9, np.float32)
    draws[4] = 0  # the hue, and nothing else
    for last, turn in ((0.0, -18), (1 - 2**-24, 18)):
        draws[8] = last
        found = transforms.photometric_distortion(image, tf.constant(draws), (-18, 18))
        np.testing.assert_array_equal(found, transforms.change_hue(image, turn))
