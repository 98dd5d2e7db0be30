"""Twins: what the reference's outputs do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.encoders import Twins
from se_jax.models.encoders.twins import VARIANTS, LocalAttention, PositionEncoding, TwinsBlock, padding_bias


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def drawn(module, x):
    """Variables of a block, by numpy: compiling its own initialisation would take longer than the test."""
    rng = np.random.default_rng(0)
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), template)


def test_svt_s_blocks_are_local_and_global_in_turn():
    params = shapes(Twins("svt_small", widths=(4, 8, 16, 32), depths=(4, 3, 1, 1)))["params"]
    assert ["sr" in params[f"layers_0_{index}"]["attn"] for index in range(4)] == [False, True, False, True]
    assert ["sr" in params[f"layers_1_{index}"]["attn"] for index in range(3)] == [False, True, False]


def test_only_svt_normalises_its_maps():
    for variant, norms in (("svt_small", 4), ("pcpvt_small", 0)):
        params = shapes(Twins(variant))["params"]
        assert sum(name.startswith("norm_list") for name in params) == norms


@pytest.mark.parametrize("size", [(14, 7), (14, 9), (9, 14)])
def test_nothing_is_masked_unless_both_sides_are_padded(size):
    assert padding_bias(size, 7) is None


def test_masked_keys_are_the_padded_ones():
    bias = padding_bias((9, 13), 7)
    assert bias.shape == (4, 1, 1, 49)
    windows = bias.reshape(2, 2, 7, 7)
    assert not windows[0, 0].any()
    np.testing.assert_array_equal(windows[0, 1] == -1000, np.arange(7) + np.zeros((7, 1)) >= 6)
    np.testing.assert_array_equal(windows[1, 0] == -1000, np.arange(7)[:, None] + np.zeros(7) >= 2)
    assert (windows == -1000).sum() == 14 * 14 - 9 * 13


@pytest.mark.parametrize(("size", "diluted"), [((9, 9), False), ((7, 7), False), ((9, 7), True), ((7, 9), True)])
def test_real_pixels_attend_to_padding_on_one_side_only(size, diluted):
    """On a constant map every real value is the same; only padded ones, zero without a bias, change the result."""
    attention = LocalAttention(heads=2, window=7)
    x = np.tile(np.random.default_rng(1).normal(size=8).astype(np.float32), (2, *size, 1))
    variables = drawn(attention, x)
    params = variables["params"]
    params["qkv"]["bias"] *= 0
    value = x @ params["qkv"]["kernel"][:, 16:] @ params["proj"]["kernel"] + params["proj"]["bias"]
    same = np.isclose(jax.jit(attention.apply)(variables, x), value, rtol=1e-4, atol=1e-4)
    if diluted:
        assert not same.all(axis=-1)[:, -1, -1].any()  # the last pixel's window is a padded one
    else:
        assert same.all()


def test_initial_weights_have_the_reference_s_spread():
    key, x = jax.random.key(0), jnp.zeros((1, 4, 4, 64))
    local = jax.jit(TwinsBlock(2, 1, window=4, hidden=64, drop_path=0.0).init)(key, x)["params"]
    whole = jax.jit(TwinsBlock(2, 2, window=None, hidden=64, drop_path=0.0).init)(key, x)["params"]
    position = jax.jit(PositionEncoding().init)(key, jnp.zeros((1, 4, 4, 512)))["params"]
    for params, std in (
        (local["attn"]["qkv"], 0.02),
        (local["ffn"]["fc1"], 0.02),
        (whole["attn"]["qkv"], np.sqrt(2 / (4 * 64))),  # Xavier of the packed shape
        (whole["attn"]["sr"], np.sqrt(2 / (4 * 64))),
        (position["proj"], np.sqrt(2 / 9)),  # depthwise: outputs divided by the groups
    ):
        assert np.isclose(params["kernel"].std(), std, rtol=0.06)
        assert not params["bias"].any()


def test_every_variant_has_the_drop_path_that_was_published():
    assert {variant: Twins(variant).sizes.drop_path for variant in VARIANTS} == {
        "svt_small": 0.2,
        "svt_base": 0.2,
        "svt_large": 0.3,
        "pcpvt_small": 0.2,
        "pcpvt_base": 0.3,
        "pcpvt_large": 0.3,
    }


@pytest.mark.parametrize("window", [2, None])
def test_drop_path_acts_twice_but_on_local_attention(window):
    """What is added to 600 equal samples is the branch divided by (1 / 2)**times, with that probability, or nothing."""
    block = TwinsBlock(1, 1, window=window, hidden=8, drop_path=0.5)
    x = np.tile(np.random.default_rng(1).normal(size=(1, 2, 2, 4)).astype(np.float32), (600, 1, 1, 1))
    variables = drawn(block, x)
    apply = jax.jit(block.apply, static_argnums=2)
    for module, name, times in (("attn", "proj", 2), ("ffn", "fc2", 1 if window else 2)):
        silent = {name: {key: 0 * array for key, array in variables["params"][module][name].items()}}
        one = {
            "params": variables["params"] | {module: variables["params"][module] | silent}
        }  # one branch adds nothing
        full, dropped = apply(one, x) - x, apply(one, x, True, rngs={"dropout": jax.random.key(2)}) - x
        factor = np.sum(dropped * full, (1, 2, 3)) / np.sum(full * full, (1, 2, 3))
        kept = np.isclose(factor, 2**times, rtol=1e-2)
        assert kept.mean() == pytest.approx(0.5**times, abs=0.07)
        assert np.allclose(factor[~kept], 0, atol=1e-2)
