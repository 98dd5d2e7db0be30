"""MixVisionTransformer: what the reference's outputs do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.encoders import MixVisionTransformer
from se_jax.models.encoders.mit import VARIANTS, MixTransformerBlock


def drawn(module, x):
    """Variables of a block, by numpy: compiling its own initialisation would take longer than the test."""
    rng = np.random.default_rng(0)
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), template)


def test_initial_weights_have_the_reference_s_spread():
    block = MixTransformerBlock(2, reduction=2, hidden=192, drop_path=0.0)
    params = jax.jit(block.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))["params"]
    for (module, name), std in {
        ("ffn", "layers_0"): np.sqrt(2 / 192),
        ("ffn", "layers_1"): np.sqrt(2 / 9),  # depthwise: outputs divided by the groups
        ("ffn", "layers_4"): np.sqrt(2 / 48),
        ("attn", "sr"): np.sqrt(2 / (4 * 48)),
        ("attn", "qkv"): np.sqrt(2 / (4 * 48)),  # Xavier of the packed shape
        ("attn", "proj"): 0.02,
    }.items():
        assert np.isclose(params[module][name]["kernel"].std(), std, rtol=0.06), name
        assert not params[module][name]["bias"].any()


def test_every_variant_has_the_drop_path_that_was_published():
    assert {MixVisionTransformer(variant).sizes.drop_path for variant in VARIANTS} == {0.1}


def test_drop_path_acts_once_on_every_branch():
    """What is added to 600 equal samples is the branch divided by 1 / 2, or nothing, in equal parts."""
    block = MixTransformerBlock(1, reduction=1, hidden=8, drop_path=0.5)
    x = np.tile(np.random.default_rng(1).normal(size=(1, 2, 2, 4)).astype(np.float32), (600, 1, 1, 1))
    variables = drawn(block, x)
    apply = jax.jit(block.apply, static_argnums=2)
    for module, name in (("ffn", "layers_4"), ("attn", "proj")):
        silent = {name: {key: 0 * array for key, array in variables["params"][module][name].items()}}
        one = {
            "params": variables["params"] | {module: variables["params"][module] | silent}
        }  # one branch adds nothing
        full, dropped = apply(one, x) - x, apply(one, x, True, rngs={"dropout": jax.random.key(2)}) - x
        factor = np.sum(dropped * full, (1, 2, 3)) / np.sum(full * full, (1, 2, 3))
        assert np.isclose(factor, 2, atol=1e-3).mean() == pytest.approx(0.5, abs=0.07)
        assert np.isclose(factor, 0, atol=1e-3).mean() == pytest.approx(0.5, abs=0.07)
