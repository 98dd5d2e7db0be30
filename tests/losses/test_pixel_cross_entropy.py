import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import losses, parallel
from se_jax.config import options
from se_jax.evaluation.metrics import Accuracy
from se_jax.losses.pixel_cross_entropy import AVERAGES, PixelCrossEntropy
from se_jax.models.layers import resize
from se_jax.models.segmenter import normalize
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step
from tests.conftest import assert_close_to_reference


def cross_entropy(logits, label, normalizer=None, **options):
    """The loss's only term; `normalizer` is by default that of the label."""
    loss = PixelCrossEntropy(**options)
    batch = {"label": label}
    normalizer = loss.normalizer(batch) if normalizer is None else normalizer
    (term,) = loss({"logits": logits}, {}, batch, normalizer, None).values()
    return term


@functools.partial(jax.jit, static_argnames=("average", "align_corners", "class_weights", "min_kept", "threshold"))
def loss_and_gradient(low, label, average, align_corners=False, **options):
    """The loss, and its gradient by full-size logits (what the golden case holds)."""
    options["average"] = average
    full = resize(low, label.shape[1:3], align_corners)
    loss = cross_entropy(low, label, align_corners=align_corners, **options)
    return loss, jax.grad(lambda x: cross_entropy(x, label, **options))(full)


def accuracy(logits, label, align_corners=False):
    """What the metric of that name says of resized logits."""
    metric = Accuracy()
    state = metric.update(metric.init(len(label)), resize(logits, label.shape[1:3], align_corners), label)
    return metric.compute(jax.device_get(state))["accuracy"]


def random_batch(images=4, classes=5, seed=0):
    """Logits [images, 3, 3, classes], and labels [images, 9, 9] of which about a sixth are ignored."""
    keys = jax.random.split(jax.random.key(seed), 2)
    label = jax.random.randint(keys[1], (images, 9, 9), 0, classes + 1)
    return 2 * jax.random.normal(keys[0], (images, 3, 3, classes)), jnp.where(label == classes, 255, label)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("average, name", [("all", "default"), ("valid", "avg_non_ignore")])
def test_cross_entropy_is_the_references(golden, average, name, align_corners):
    case = golden("loss_ce_ohem")
    low, label = jnp.asarray(case["in/logits_low"].transpose(0, 2, 3, 1)), jnp.asarray(case["in/label"])
    loss, gradient = loss_and_gradient(low, label, average, align_corners)
    expected = case.group(f"out/ac{int(align_corners)}/{name}")
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6)
    assert_close_to_reference(gradient.transpose(0, 3, 1, 2), expected["grad_logits"])


@pytest.mark.parametrize("align_corners", [False, True])
def test_accuracy_is_the_references(golden, align_corners):
    case = golden("loss_ce_ohem")
    low, label = jnp.asarray(case["in/logits_low"].transpose(0, 2, 3, 1)), jnp.asarray(case["in/label"])
    expected = case[f"out/ac{int(align_corners)}/acc_seg"]
    np.testing.assert_allclose(100 * accuracy(low, label, align_corners), expected[0], rtol=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_batch_of_ignored_pixels_gives_zero_loss_and_gradient(average):
    logits, label = jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), 255, jnp.uint8)
    loss, gradient = loss_and_gradient(logits, label, average, False)
    assert loss == 0
    assert not np.any(gradient)
    assert accuracy(logits, label) == 1


def test_a_label_that_is_no_class_makes_the_loss_nan():
    label = jnp.zeros((1, 4, 4), jnp.uint8).at[0, 1, 1].set(3)
    loss = cross_entropy(jnp.zeros((1, 4, 4, 3)), label, 1.0)
    assert np.isnan(loss)


def test_parts_of_a_batch_add_up_to_its_loss():
    logits, label = random_batch()
    label = label.at[0].set(255)  # the first image counts for nothing
    normalizer = PixelCrossEntropy().normalizer({"label": label})
    whole = cross_entropy(logits, label)
    parts = [cross_entropy(logits[i::2], label[i::2], normalizer) for i in range(2)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)


# ---- Class weights ----


@pytest.mark.parametrize("align_corners", [False, True])
def test_class_weights_are_the_references(golden, align_corners):
    case = golden("loss_ce_ohem")
    low, label = jnp.asarray(case["in/logits_low"].transpose(0, 2, 3, 1)), jnp.asarray(case["in/label"])
    label = jnp.where(label == 255, 0, label)
    weights = tuple(case["in/class_weight"].tolist())
    loss, gradient = loss_and_gradient(low, label, "all", align_corners, class_weights=weights)
    expected = case.group(f"out/ac{int(align_corners)}/class_weight_noignored")
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6)
    assert_close_to_reference(gradient.transpose(0, 3, 1, 2), expected["grad_logits"])


def test_ignored_pixels_have_no_class_weight():
    logits, label = random_batch()
    loss, gradient = loss_and_gradient(logits, label, "valid", class_weights=(2.0,) * 5)
    plain, plain_gradient = loss_and_gradient(logits, label, "valid")
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient, plain_gradient, atol=1e-8)
    nothing, gradient = loss_and_gradient(logits, jnp.full_like(label, 255), "valid", class_weights=(2.0,) * 5)
    assert nothing == 0
    assert not np.any(gradient)


# ---- Mining of hard pixels ----


@pytest.mark.parametrize(
    "name, options",
    [
        ("ohem_thresh", {"threshold": 0.7, "min_kept": 100}),
        ("ohem_thresh_lowkept", {"threshold": 0.2, "min_kept": 50}),
        ("ohem_thresh_lowkept", {"threshold": 0.1, "min_kept": 430}),  # the rank decides, for the same pixels
        ("ohem_topk", {"min_kept": 150}),
    ],
)
def test_mined_pixels_are_the_references(golden, name, options):
    case = golden("loss_ce_ohem")
    low, label = jnp.asarray(case["in/logits_low"].transpose(0, 2, 3, 1)), jnp.asarray(case["in/label"])
    loss, gradient = loss_and_gradient(low, label, "all", **options)
    np.testing.assert_array_equal(np.any(gradient, axis=-1), case[f"out/{name}/weight"])
    np.testing.assert_allclose(loss, case[f"out/{name}/loss"], rtol=2e-6)


def mined_by_sorting(logits, label, min_kept, threshold=None):
    """The summed loss of the hard pixels, in numpy."""
    full = np.asarray(resize(logits, label.shape[1:3], False), np.float64)
    full, label = full.reshape(-1, full.shape[-1]), np.asarray(label).ravel()
    full, label = full[label != 255], label[label != 255]
    loss = np.log(np.exp(full).sum(-1)) - full[np.arange(len(label)), label]
    if threshold is None:
        return np.sort(loss)[::-1][: 4 * min_kept].sum()
    probability = np.exp(-loss)
    limit = max(np.sort(probability)[min(4 * min_kept, len(label) - 1)], threshold)
    return loss[probability < limit].sum()


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("min_kept", [1, 60, 80])  # of 81 pixels an image, about 68 not ignored; 4 images
def test_mining_ranks_the_whole_batch_of_all_devices(min_kept, threshold):
    logits, label = random_batch()
    logits = logits.at[0].multiply(4.0)  # most of the hard pixels are in the first image
    mesh = parallel.make_mesh(devices=jax.devices()[:4])

    def mined(logits, label):
        return cross_entropy(logits, label, 1.0, min_kept=min_kept, threshold=threshold)

    batch = parallel.shard_batch(mesh, (logits, label))
    compiled = parallel.jit_once(mined).lower(*batch).compile()
    expected = mined_by_sorting(logits, label, min_kept, threshold)
    np.testing.assert_allclose(compiled(*batch), expected, rtol=1e-5)
    assert "all-reduce" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()  # no pixel leaves its device


def test_equal_losses_share_what_is_left():
    logits, label = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4), int).at[0, 0].set(255)
    logits = logits.at[0, 1, :, 1].set(3.0)  # 4 hard pixels, 8 equal ones, 4 ignored ones
    loss, gradient = loss_and_gradient(logits, label, "all", min_kept=6)
    np.testing.assert_allclose(16 * loss, 4 * np.log1p(np.exp(3)) + 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 2:], np.tile([-0.5, 0.5], (2, 4, 1)) * 2 / 8 / 16, rtol=1e-6)


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_mining_among_ignored_pixels_finds_nothing(threshold):
    logits, label = jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), 255)
    loss, gradient = loss_and_gradient(logits, label, "all", min_kept=5, threshold=threshold)
    assert loss == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_mining_does_not_hide_a_label_that_is_no_class(threshold):
    label = jnp.zeros((1, 4, 4), jnp.uint8).at[0, 1, 1].set(3)
    loss = cross_entropy(jnp.zeros((1, 4, 4, 3)), label, 1.0, min_kept=1, threshold=threshold)
    assert np.isnan(loss)


# ---- config.loss ----


class Pixels:
    """A network whose decoder and auxiliary head see one pixel each, with the same weights."""

    align_corners, num_classes, auxiliary, linear_scores = False, 3, True, True
    normalize = staticmethod(normalize)

    def apply(self, variables, images, **_):
        logits = images @ variables["params"]["kernel"]
        return {"logits": logits, "auxiliary": logits}, {"batch_stats": {}}


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_mines_the_decoders_loss_of_each_part(count):
    config = options.get_config()
    config.accumulate = count
    config.loss.class_weights = (0.5, 1.0, 2.0)
    config.loss.ohem.update(min_kept=20, threshold=0.2)
    rng = np.random.default_rng(0)
    label = jnp.asarray(rng.choice([0, 1, 2, 255], (4, 8, 8)).astype(np.uint8))
    batch = {"image": rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8), "label": label, "size": np.full((4, 2), 8)}
    params = {"kernel": rng.normal(size=(3, 3)).astype(np.float32)}
    tx, schedule = optimizers.build(config.optimizer, 10)
    minimised = losses.build(config.loss, Pixels())
    step = parallel.jit_once(make_train_step(Pixels(), tx, schedule, config, minimised))
    _, measured = step(state.create({"params": params}, tx), batch)

    logits = normalize(batch["image"], batch["size"]) @ params["kernel"]
    weights = {"class_weights": (0.5, 1.0, 2.0)}
    normalizer = PixelCrossEntropy(**weights).normalizer({"label": label})
    parts = [(logits[i::count], label[i::count], normalizer) for i in range(count)]
    mined = sum(cross_entropy(*part, **weights, min_kept=20, threshold=0.2) for part in parts)
    whole = cross_entropy(logits, label, **weights)
    assert mined < whole
    np.testing.assert_allclose(measured["loss_decoder"], mined, rtol=1e-5)
    np.testing.assert_allclose(measured["loss_auxiliary"], 0.4 * whole, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"class_weights": (1.0, 2.0)}, "loss.class_weights has 2 values; expected one for each of the 3 classes"),
        ({"ohem.min_kept": -1}, "loss.ohem.min_kept is -1"),
        ({"ohem.threshold": 0.7}, "loss.ohem.threshold needs loss.ohem.min_kept"),
        ({"average": "mean"}, "loss.average is 'mean'; expected one of valid, all"),
    ],
)
def test_options_that_cannot_be_are_named(changes, message):
    config = options.get_config().loss
    losses.build(config, Pixels())
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        losses.build(config, Pixels())
