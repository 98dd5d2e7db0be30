"""MixVisionTransformer against the PyTorch reference, and what the reference's outputs do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders import MixVisionTransformer
from se_jax.models.encoders.mit import VARIANTS, MixTransformerBlock
from tests.conftest import assert_close_to_reference


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def drawn(module, x):
    """Variables of a block, by numpy: compiling its own initialisation would take longer than the test."""
    rng = np.random.default_rng(0)
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), template)


def test_equals_the_reference_at_even_and_odd_sizes(golden):
    case = golden("bb_mit")
    model = MixVisionTransformer("b0", width=case.meta["kwargs"]["embed_dims"])
    variables = import_weights(model, case.group("sd"), shapes(model))
    for size, shape in enumerate(case.meta["sizes"]):
        model = model.clone(remat=shape["in"][-1] % 2 == 1)
        maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
        for stage, actual in enumerate(maps):
            assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("variant", "millions"), [("b0", 3.32), ("b1", 13.15), ("b2", 24.20), ("b3", 44.07), ("b4", 60.84), ("b5", 81.44)]
)
def test_published_sizes(variant, millions):
    """Parameters, and maps of odd images."""
    model = MixVisionTransformer(variant)
    images = jnp.zeros((1, 97, 66, 3))
    maps, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(variables)) / 1e6, 2) == millions
    expected = [(1, -(-97 // s), -(-66 // s), c) for s, c in zip((4, 8, 16, 32), model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected
    assert model.sizes.drop_path == 0.1
    assert model.channels[3] == (256 if variant == "b0" else 512)


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


def test_remat_recomputes_every_block_and_keeps_the_variables():
    """That it keeps the outputs, the reference's odd size shows."""
    plain = MixVisionTransformer("b0", width=2, depths=(1, 1, 1, 1))
    variables = shapes(plain)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes(plain.clone(remat=True)))
    images, rngs = jnp.zeros((2, 33, 32, 3)), {"dropout": jax.random.key(2)}

    def recomputed(model):
        jaxpr = jax.make_jaxpr(lambda variables: model.apply(variables, images, True, rngs=rngs))(variables)
        return sum(equation.primitive.name == "remat2" for equation in jaxpr.eqns)

    assert (recomputed(plain), recomputed(plain.clone(remat=True))) == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "b6"}, "variant is 'b6'; expected one of " + ", ".join(VARIANTS)),
        ({"depths": (2, 2)}, r"depths is \(2, 2\); expected 4"),
        ({"heads": (0, 2, 5, 8)}, "heads is"),
        ({"width": 0}, "width is 0"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixVisionTransformer(**options)


def test_images_without_a_single_key_are_refused():
    model = MixVisionTransformer()
    with pytest.raises(ValueError, match="image of 28 x 64; expected at least 29 x 29"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 64, 3)))
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 29, 29, 3)))
