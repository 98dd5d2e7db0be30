import numpy as np
import pytest

from data_pipelines import shapes
from data_pipelines.sources import read_example

CLASSES = len(shapes.NAMES)


@pytest.fixture(scope="module")
def scenes():
    """160 scenes: images [160, h, w, 3] and labels [160, h, w]."""
    images, labels = zip(*(shapes.scene("train", k) for k in range(160)), strict=True)
    return np.stack(images), np.stack(labels)


def test_a_scene_is_a_function_of_split_and_index():
    first, again = shapes.scene("train", 3), shapes.scene("train", 3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (shapes.scene("train", 4), shapes.scene("val", 3)):
        assert (first[0] != other[0]).mean() > 0.5


def test_the_source_gives_the_scene_through_files():
    source = shapes.ShapesSource("val", 5, (48, 64))
    assert len(source) == 5 and source.size(0) == (48, 64)
    image, label = read_example(source, shapes.label_spec(), 4)
    drawn = shapes.scene("val", 4, (48, 64))
    np.testing.assert_array_equal(image, drawn[0])
    np.testing.assert_array_equal(label, drawn[1])
    with pytest.raises(IndexError, match="5 scenes, asked for 5"):
        source[5]


@pytest.mark.parametrize("size", [(96, 128), (97, 33), (200, 260), (16, 16)])
def test_any_size(size):
    for index in range(3):
        image, label = shapes.scene("train", index, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8


def test_every_class_is_there_in_a_fair_share(scenes):
    _, labels = scenes
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert share[:CLASSES].min() > 0.015 and share[:CLASSES].max() < 0.3
    assert 0.03 < share[255] < 0.15
    assert share[:CLASSES].sum() + share[255] == pytest.approx(1)
    in_how_many = [np.mean([(label == k).any() for label in labels]) for k in range(CLASSES)]
    assert min(in_how_many) > 0.4


def test_objects_have_a_band_of_ignored_pixels_around_them(scenes):
    """Two different classes touch only where one object crosses the rounding of another's band."""
    _, labels = scenes
    a, b = labels[:, 1:], labels[:, :-1]
    touching = (a != b) & (a != 255) & (b != 255)
    assert touching.sum() / (a != b).sum() < 0.02


def test_pictures_use_the_range_and_differ_in_light(scenes):
    images, _ = scenes
    means = images.mean((1, 2, 3))
    assert 60 < means.mean() < 160 and means.std() > 10
    assert (images == 255).mean() < 0.02 and (images == 0).mean() < 0.02


def test_colour_alone_does_not_tell_the_classes(scenes):
    """Least squares on all products of two colour channels, classes weighted alike: mean IoU far below 0.3."""
    images, labels = scenes
    colours = images.reshape(-1, 3).astype(np.float32) / 127.5 - 1
    ones = np.ones((len(colours), 1), np.float32)
    products = [colours[:, i] * colours[:, j] for i in range(3) for j in range(i, 3)]
    features = np.concatenate([ones, colours, np.stack(products, 1)], 1)
    kept = labels.ravel() != 255
    x, y = features[kept], labels.ravel()[kept]
    half = len(y) // 2
    weight = (1 / np.bincount(y[:half], minlength=CLASSES))[y[:half], None].astype(np.float32)
    target = np.eye(CLASSES, dtype=np.float32)[y[:half]]
    solution = np.linalg.solve(x[:half].T @ (weight * x[:half]), x[:half].T @ (weight * target))
    guess = (x[half:] @ solution).argmax(1)
    confusion = np.bincount(CLASSES * y[half:] + guess, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert iou.mean() < 0.15
