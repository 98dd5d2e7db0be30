"""The losses of config.losses against those of segmentation_models_pytorch and mmsegmentation, and their seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import losses
from se_jax.config import check, options
from se_jax.config.types import ConfigDict
from se_jax.losses import BinaryCrossEntropy, Dice, Focal, LovaszSoftmax, PixelCrossEntropy, Tversky
from tests import tiny
from tests.conftest import assert_close_to_reference

WITNESSES = {
    "dice": Dice(),
    "dice_sigmoid": Dice(activation="sigmoid"),
    "tversky": Tversky(),
    "tversky_smooth": Tversky(smooth=1.0),
    "lovasz": LovaszSoftmax(),
    "focal": Focal(alpha=0.25),
    "focal_all": Focal(alpha=0.5, average="all"),
    "focal_softmax": Focal(activation="softmax"),
    "binary_cross_entropy": BinaryCrossEntropy(),
    "smoothing": PixelCrossEntropy(label_smoothing=0.1, average="all"),
}


def value(loss, logits, label, normalizer=None):
    batch = {"label": label}
    normalizer = loss.normalizer(batch) if normalizer is None else normalizer
    (term,) = loss({"logits": logits}, {}, batch, normalizer, None).values()
    return term


@pytest.fixture(scope="module")
def batch(golden):
    case = golden("losses_witness")
    return jnp.asarray(case["in/logits"].transpose(0, 2, 3, 1)), jnp.asarray(case["in/label"])


@pytest.mark.parametrize("name", WITNESSES)
def test_loss_is_its_witness(golden, batch, name):
    found, gradient = jax.value_and_grad(lambda logits: value(WITNESSES[name], logits, batch[1]))(batch[0])
    expected = golden("losses_witness").group(f"out/{name}")
    # smp's focal loss has alpha as a number; its value of 'no' and ours are the same
    np.testing.assert_allclose(found, expected["value"], rtol=3e-6)
    assert_close_to_reference(gradient.transpose(0, 3, 1, 2), expected["grad"])


@pytest.mark.parametrize("name", WITNESSES)
def test_parts_add_up_and_ignored_images_and_wrong_ids_are_seen(batch, name):
    loss, (logits, label) = WITNESSES[name], batch
    label = jnp.concatenate([label, jnp.full_like(label[:1], 255)])  # an image that counts for nothing
    logits = jnp.concatenate([logits, logits[:1]])
    normalizer = loss.normalizer({"label": label})
    whole, gradient = jax.value_and_grad(lambda logits: value(loss, logits, label))(logits)
    parts = [value(loss, logits[i : i + 1], label[i : i + 1], normalizer) for i in range(3)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)
    assert parts[2] == 0 and not jnp.any(gradient[2]) and jnp.all(jnp.isfinite(gradient))
    assert jnp.isnan(value(loss, logits, label.at[0, 5, 5].set(4)))
    nothing, gradient = jax.value_and_grad(lambda x: value(loss, x, jnp.full_like(label, 255)))(logits)
    assert nothing == 0 and not jnp.any(gradient)


@pytest.mark.parametrize("name", ["dice", "tversky", "lovasz", "focal", "binary_cross_entropy"])
def test_a_certain_answer_costs_nothing_and_has_a_finite_gradient(batch, name):
    _, label = batch
    logits = 200.0 * jax.nn.one_hot(label, 4) - 100.0
    found, gradient = jax.value_and_grad(lambda x: value(WITNESSES[name], x, label))(logits)
    assert abs(found) <= 1e-6 and jnp.all(jnp.isfinite(gradient))


# ---- config.losses ----


def config_of(terms):
    config = options.get_config()
    config.losses = ConfigDict(terms)
    check.check(config)
    return config


def test_config_losses_is_a_weighted_sum():
    terms = {"cross_entropy": 1.0, "dice": 0.5, "mine": {"name": "tversky", "weight": 2.0, "alpha": 0.2}}
    config = config_of(terms)
    config.loss.label_smoothing = 0.1
    made = losses.build(config.loss, tiny.network("psp", auxiliary=True), config.losses)
    assert made[:3] == (
        PixelCrossEntropy(label_smoothing=0.1),
        Dice(weight=0.5),
        Tversky(term="loss_mine", weight=2.0, alpha=0.2),
    )
    assert made[3].term == "loss_auxiliary" and made[3].label_smoothing == 0
    logits, label = jnp.ones((1, 4, 4, 5)), jnp.zeros((1, 4, 4), jnp.uint8)
    assert value(made[1], logits, label) == 0.5 * value(Dice(), logits, label)
    assert losses.build(config.loss, tiny.network("psp"), {}) == made[:1]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"dise": 1.0}, "losses.dise is 'dise'; expected one of .*dice"),
        ({"dice": -1.0}, "losses.dice.weight is -1.0; expected a number of at least 0"),
        ({"dice": {"smoth": 1.0}}, "no option losses.dice.smoth; did you mean losses.dice.smooth"),
        ({"focal": {"activation": "tanh"}}, "losses.focal.activation is 'tanh'; expected one of softmax, sigmoid"),
        ({"focal": {"alpha": 0.5, "activation": "softmax"}}, "Focal alpha is 0.5"),
    ],
)
def test_what_config_losses_cannot_be_is_named(terms, message):
    with pytest.raises(ValueError, match=message):
        config = config_of(terms)
        losses.build(config.loss, tiny.network("psp"), config.losses)
