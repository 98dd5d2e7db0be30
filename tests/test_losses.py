import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import losses
from tests.conftest import assert_close_to_reference


def loss_and_gradient(low, label, average, align_corners):
    """The loss, and its gradient by full-size logits (what the golden case holds)."""
    divide_by = losses.divisor(label, average)
    full = losses.resize(low, label.shape[1:3], align_corners)
    loss, _ = losses.cross_entropy(low, label, divide_by, align_corners=align_corners)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, label, divide_by)[0])(full)
    return loss, gradient


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
    _, correct = losses.cross_entropy(low, label, 1.0, align_corners=align_corners)
    expected = case[f"out/ac{int(align_corners)}/acc_seg"]
    np.testing.assert_allclose(100 * losses.accuracy(correct, label), expected[0], rtol=1e-6)


@pytest.mark.parametrize("average", losses.AVERAGES)
def test_a_batch_of_ignored_pixels_gives_zero_loss_and_gradient(average):
    logits, label = jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), 255, jnp.uint8)
    loss, gradient = loss_and_gradient(logits, label, average, False)
    assert loss == 0
    assert not np.any(gradient)
    assert losses.accuracy(losses.cross_entropy(logits, label, 1.0)[1], label) == 1


def test_a_label_that_is_no_class_makes_the_loss_nan():
    label = jnp.zeros((1, 4, 4), jnp.uint8).at[0, 1, 1].set(3)
    loss, _ = losses.cross_entropy(jnp.zeros((1, 4, 4, 3)), label, 1.0)
    assert np.isnan(loss)


def test_parts_of_a_batch_add_up_to_its_loss():
    keys = jax.random.split(jax.random.key(0), 2)
    logits = jax.random.normal(keys[0], (4, 3, 3, 5))
    label = jax.random.randint(keys[1], (4, 9, 9), 0, 6)
    label = jnp.where(label == 5, 255, label).at[0].set(255)  # the first image counts for nothing
    divide_by = losses.divisor(label)
    whole, _ = losses.cross_entropy(logits, label, divide_by)
    parts = [losses.cross_entropy(logits[i::2], label[i::2], divide_by)[0] for i in range(2)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)
