"""Frozen parts: what a training step leaves as it is, what it does not compute, and patterns that cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import losses, parallel
from se_jax.config import options
from se_jax.models import EfficientNet, SegformerHead, Segmenter, frozen
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step
from tests import tiny

ENCODER = ("^encoder/",)
MODEL = Segmenter(EfficientNet("lite0", width=0.1, depth=0.1, drop_path=0.5), SegformerHead(3, channels=8, dropout=0.0))


def config(freeze=ENCODER, seed=0):
    made = options.get_config()
    made.seed, made.ema_decay = seed, 0.9
    made.optimizer.update(name="adamw", clip_norm=0.1, weight_decay=0.1, freeze=freeze)
    made.optimizer.rate_multipliers = (("^encoder/blocks_0", 0.1), ("^encoder/", 0.5))  # rules of what is frozen, too
    return made


def start(made):
    """(a filled state, the step) of a config."""
    tx, schedule = optimizers.build(made.optimizer, 10)
    return (
        state.create(tiny.init(MODEL, 32), tx, keep_ema=True),
        make_train_step(MODEL, tx, schedule, made, losses.build(made.loss, MODEL)),
    )


BATCH = {
    "image": tiny.images(2, 32),
    "label": np.random.default_rng(0).integers(0, 3, (2, 32, 32)).astype(np.uint8),
    "size": np.full((2, 2), 32, np.int32),
}


@pytest.fixture(scope="module")
def stepped():
    """States before and after two steps with a frozen encoder, for each of two seeds."""
    found = []
    for seed in (0, 1):
        before, step = start(config(seed=seed))
        found.append((before, functools.reduce(lambda s, _: parallel.jit_once(step)(s, BATCH)[0], range(2), before)))
    return found


def equal(a, b):
    return jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)


def test_the_encoder_stays_to_the_bit_and_the_decoder_learns(stepped):
    (before, after), _ = stepped
    for name in ("params", "ema", "batch_stats"):
        same = equal(getattr(before, name), getattr(after, name))
        assert jax.tree.all(same["encoder"]), name
        assert not any(jax.tree.leaves(same["decoder"])), name
    assert not [path for path in _paths(after.opt_state) if "encoder" in path]
    assert [path for path in _paths(after.opt_state) if "decoder" in path]


def test_nothing_is_dropped_in_a_frozen_encoder(stepped):
    """Its drop path would be another for another seed; so its features may be kept."""
    (_, one), (_, other) = stepped
    assert jax.tree.all(equal(one.params, other.params))


def _paths(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def convolutions(freeze) -> int:
    """How many convolutions a step has, backward ones included."""
    before, step = start(config(freeze))
    with parallel.platforms.for_platform("tpu"):
        return str(jax.make_jaxpr(step)(before, BATCH)).count("conv_general_dilated[")


def test_no_backward_pass_is_computed_below_what_is_trained():
    with parallel.platforms.for_platform("tpu"):
        images = jnp.zeros((2, 32, 32, 3))
        forward = jax.make_jaxpr(functools.partial(MODEL.encoder.apply, train=False))
        variables = {name: part["encoder"] for name, part in tiny.shapes(MODEL, images).items()}
        of_encoder = str(forward(variables, images)).count("conv_general_dilated[")
    everything, decoder, last_stage = (convolutions(freeze) for freeze in ((), ENCODER, ("^encoder/(?!blocks_6)",)))
    assert everything > 2.5 * of_encoder > 1.5 * of_encoder > decoder >= of_encoder
    assert decoder < last_stage < everything - of_encoder


def test_norms_are_frozen_with_both_of_their_parameters():
    """And a part without parameters by its own path."""
    before, step = start(config(("scale$",)))
    after, _ = jax.eval_shape(step, before, BATCH)
    with frozen.frozen(("^encoder/bn1/", "blocks_0_0/.*scale$")):
        bound = [Bound("encoder", "bn1"), Bound("encoder", "blocks_0_0", "bn1"), Bound("encoder", "bn1", "drop")]
        assert [frozen.is_frozen(bound[0], "scale", "bias"), frozen.is_frozen(bound[1], "scale", "bias")] == [1, 0]
        assert frozen.is_frozen(bound[2])
    assert not frozen.is_frozen(bound[0], "scale", "bias"), "outside, nothing is frozen"


class Bound:
    def __init__(self, *path):
        self.path = path


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("^encoder/", "backbone"), "freeze has the pattern 'backbone', which is found in no parameter; .* like"),
        (("^(en|de)coder/",), "is found in every parameter: nothing is left to train"),
    ],
)
def test_patterns_that_cannot_be_are_named(freeze, message):
    tx, _ = optimizers.build(config(freeze).optimizer, 10)
    with pytest.raises(ValueError, match=message):
        tx.init(tiny.shapes(MODEL, jnp.zeros((2, 32, 32, 3)))["params"])
