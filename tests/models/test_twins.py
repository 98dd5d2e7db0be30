"""Twins against the PyTorch reference, and what the reference's outputs do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders import Twins
from se_jax.models.encoders.twins import VARIANTS, LocalAttention, PositionEncoding, TwinsBlock, padding_bias
from tests.conftest import assert_close_to_reference


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def drawn(module, x):
    """Variables of a block, by numpy: compiling its own initialisation would take longer than the test."""
    rng = np.random.default_rng(0)
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), template)


def test_svt_equals_the_reference_at_every_kind_of_padding(golden):
    case = golden("bb_twins_svt")
    kwargs = case.meta["kwargs"]
    model = Twins("svt_small", widths=kwargs["embed_dims"], depths=kwargs["depths"], heads=kwargs["num_heads"])
    variables = import_weights(model, case.group("sd"), shapes(model))
    for size, shape in enumerate(case.meta["sizes"]):
        model = model.clone(remat=shape["in"][-1] % 2 == 1)
        maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
        for stage, actual in enumerate(maps):
            assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("variant", "millions", "drop_path"),
    [
        ("svt_small", 23.55, 0.2),
        ("svt_base", 55.30, 0.2),
        ("svt_large", 98.25, 0.3),
        ("pcpvt_small", 23.59, 0.2),
        ("pcpvt_base", 43.31, 0.3),
        ("pcpvt_large", 60.48, 0.3),
    ],
)
def test_published_sizes(variant, millions, drop_path):
    """Parameters, and maps of odd images."""
    model = Twins(variant)
    images = jnp.zeros((1, 97, 66, 3))
    maps, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(variables)) / 1e6, 2) == millions
    expected = [(1, -(-97 // s), -(-66 // s), c) for s, c in zip((4, 8, 16, 32), model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected
    assert model.sizes.drop_path == drop_path


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


def test_remat_recomputes_every_block_and_keeps_the_variables():
    """That it keeps the outputs, the reference's odd size shows."""
    plain = Twins("svt_small", widths=(2, 4, 4, 8), heads=(1, 2, 2, 2), depths=(2, 1, 1, 1))
    variables = shapes(plain)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes(plain.clone(remat=True)))
    images, rngs = jnp.zeros((2, 33, 32, 3)), {"dropout": jax.random.key(2)}

    def recomputed(model):
        jaxpr = jax.make_jaxpr(lambda variables: model.apply(variables, images, True, rngs=rngs))(variables)
        return sum(equation.primitive.name == "remat2" for equation in jaxpr.eqns)

    assert (recomputed(plain), recomputed(plain.clone(remat=True))) == (0, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "svt"}, "variant is 'svt'; expected one of " + ", ".join(VARIANTS)),
        ({"depths": (2, 2)}, r"depths is \(2, 2\); expected 4"),
        ({"mlp_ratios": (4, 4, 4, 0)}, "mlp_ratios is"),
        ({"widths": (64, 127, 256, 512)}, "not multiples of its heads"),
        ({"window": 0}, "window is 0"),
        ({"variant": "pcpvt_small", "window": 7}, "window is 7 with variant 'pcpvt_small'"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Twins(**options)


def test_images_without_a_single_key_are_refused():
    with pytest.raises(ValueError, match="image of 64 x 28; expected at least 29 x 29"):
        jax.eval_shape(Twins().init, jax.random.key(0), jnp.zeros((1, 64, 28, 3)))
