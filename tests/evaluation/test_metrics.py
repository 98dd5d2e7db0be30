import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax import parallel
from se_jax.evaluation import metrics

count = jax.jit(metrics.confusion_matrix, static_argnums=2)
areas = jax.jit(metrics.areas, static_argnums=2)


def test_scores_are_the_references(golden):
    case = golden("metric_iou")
    classes = case.meta["num_classes"]
    total = np.zeros((classes, classes), np.int64)
    for i in range(len(case.group("in/pred"))):
        confusion = np.asarray(count(case[f"in/pred/{i}"], case[f"in/label/{i}"], classes))
        np.testing.assert_array_equal(np.diagonal(confusion), case[f"res/area_intersect/{i}"])
        np.testing.assert_array_equal(confusion.sum(0), case[f"res/area_pred/{i}"])
        np.testing.assert_array_equal(confusion.sum(1), case[f"res/area_label/{i}"])
        total += confusion
    scored = metrics.scores(total)
    np.testing.assert_allclose(scored["iou"], case["res/IoU"], rtol=1e-6)
    np.testing.assert_allclose(scored["acc"], case["res/Acc"], rtol=1e-6)
    expected = case.meta["summary_percent"]
    for ours, theirs in (("miou", "mIoU"), ("macc", "mAcc"), ("aacc", "aAcc")):
        assert round(100 * scored[ours], 2) == expected[theirs]


def test_an_absent_class_is_nan_and_counts_in_no_mean(golden):
    small = golden("metric_iou").meta["small"]
    confusion = count(jnp.array(small["pred"]), jnp.array(small["label"]), small["num_classes"])
    scored = metrics.scores(confusion)
    np.testing.assert_array_equal(np.isnan(scored["iou"]), [False, False, True, True])
    for ours, theirs in (("miou", "mIoU"), ("macc", "mAcc"), ("aacc", "aAcc")):
        assert round(100 * scored[ours], 2) == small["summary_percent"][theirs]


def test_a_class_predicted_but_never_labelled_has_iou_0_and_acc_nan():
    scored = metrics.scores([[2, 1], [0, 0]])
    assert scored["iou"][1] == 0
    assert np.isnan(scored["acc"][1])
    assert scored["macc"] == 2 / 3


def test_precision_and_dice():
    """By hand: of class 0, 6 pixels are labelled, 5 predicted, 4 both; of class 1, 4, 5 and 3."""
    scored = metrics.scores([[4, 2], [1, 3]])
    np.testing.assert_allclose(scored["precision"], [4 / 5, 3 / 5])
    np.testing.assert_allclose(scored["dice"], [2 * 4 / (6 + 5), 2 * 3 / (4 + 5)])
    np.testing.assert_allclose([scored["mprecision"], scored["mdice"]], [0.7, (8 / 11 + 6 / 9) / 2])


def test_an_empty_matrix_gives_nan():
    scored = metrics.scores(np.zeros((3, 3)))
    assert np.isnan([scored["miou"], scored["macc"], scored["aacc"]]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_confusion_matrix_counts_every_pixel_once(seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], size=(2, 5, 7)).astype(np.uint8)
    prediction = rng.integers(0, 3, size=label.shape)
    expected = [[np.sum((label == i) & (prediction == j)) for j in range(3)] for i in range(3)]
    np.testing.assert_array_equal(count(prediction, label, 3), expected)
    np.testing.assert_array_equal(count(jax.nn.one_hot(prediction, 3), label, 3), expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_areas_are_those_of_each_images_confusion_matrix(seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], size=(2, 5, 7)).astype(np.uint8)
    prediction = rng.integers(0, 3, size=label.shape)
    found = areas(prediction, label, 3)
    for image in range(2):
        confusion = np.asarray(count(prediction[image], label[image], 3))
        right = np.diagonal(confusion)
        np.testing.assert_array_equal(found[image], [right, confusion.sum(0) + confusion.sum(1) - right])


def test_the_count_is_the_same_on_eight_devices():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 4, size=(2, 8, 6, 5)).astype(np.uint8)
    spread = parallel.shard_batch(parallel.make_mesh(), (prediction, label))
    np.testing.assert_array_equal(count(*spread, 4), count(prediction, label, 4))


def test_sums_beyond_float32_are_exact():
    scored = metrics.scores(np.array([[2**24 + 1, 0], [0, 1]], np.int64))
    assert scored["aacc"] == 1
