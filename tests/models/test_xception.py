"""Xception: every published size, what its four maps are, how strides become dilations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.encoders.xception import Xception, XceptionUnit

pytestmark = pytest.mark.usefixtures("accelerator_form")
TINY = {
    "65": {"entry": ((8, 2), (16, 2), (24, 2)), "middle": 2, "exit": ((24, 32, 32), (40, 40, 48))},
    "71": {"entry": ((8, 2), (16, 1), (16, 2), (24, 1), (24, 2)), "middle": 1, "exit": ((24, 32, 32), (40, 40, 48))},
}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def random_variables(model):
    """Values that keep a map's size, without compiling `init`."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:3])), leaf.shape).astype(np.float32)
        return rng.uniform(*((0.5, 1.5) if name in ("scale", "var") else (-0.3, 0.3)), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(model))


@pytest.mark.parametrize(
    ("variant", "output_stride", "millions"),
    [
        ("41", 16, (24.92, 26.97)),
        ("65", 8, (37.87, 39.92)),
        ("65", 16, (37.87, 39.92)),
        ("71", 8, (40.29, 42.34)),
        ("71", 32, (40.29, 42.34)),
    ],
)
def test_published_sizes(variant, output_stride, millions):
    """Channels, parameters (of the encoder, of timm's classifier), and odd sizes rounded up."""
    model = Xception(variant, output_stride)
    maps, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 62, 3))))
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    expected = [(1, -(-97 // s), -(-62 // s), c) for s, c in zip(strides, (256, 728, 728, 2048), strict=True)]
    assert [leaf.shape for leaf in maps] == expected
    assert model.channels == (256, 728, 728, 2048)
    encoder = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
    classifier = (2048 + 1) * 1000 / 1e6
    assert (round(encoder, 2), round(encoder + classifier, 2)) == millions


@pytest.mark.parametrize("variant", ["65", "71"])
def test_maps_are_the_named_end_points(variant):
    model = Xception(variant, **TINY[variant])
    images = jax.random.normal(jax.random.key(1), (1, 49, 64, 3))
    apply = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    maps, captured = apply(random_variables(model), images)
    outputs = captured["intermediates"]
    stride_4, stride_8, middle, last = {
        "65": ("blocks_1", "blocks_2", "blocks_4", "blocks_6"),
        "71": ("blocks_2", "blocks_4", "blocks_5", "blocks_7"),
    }[variant]
    expected = [
        outputs[stride_4]["conv2"]["__call__"][0],
        outputs[stride_8]["conv2"]["__call__"][0],
        outputs[middle]["__call__"][0][0],
        outputs[last]["__call__"][0][0],
    ]
    for actual, end_point in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(actual, end_point)
    np.testing.assert_array_equal(maps[0], outputs[stride_4]["conv2"]["bn_pw"]["__call__"][0])  # no ReLU behind
    assert float(maps[3].min()) == 0  # the exit flow's activations are inside


def test_a_denser_output_holds_the_coarser_one():
    """Dilation in place of strides computes the same values at more places, from the same variables."""
    models = [Xception("71", output_stride, **TINY["71"]) for output_stride in (8, 32)]
    variables = random_variables(models[0])
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes(models[1]))
    images = jax.random.normal(jax.random.key(1), (1, 82, 65, 3))
    dense, coarse = (jax.jit(model.apply)(variables, images) for model in models)
    for a, b, step in zip(dense, coarse, (1, 1, 2, 4), strict=True):
        np.testing.assert_allclose(a[:, ::step, ::step], b, atol=1e-4 * float(b.std()))


def test_the_unit_that_keeps_its_stride_back_is_not_yet_dilated():
    units = Xception("65", 8)._units()
    assert [unit["strides"] for unit in units] == [2, 2, 1, *[1] * 16, 1, 1]
    assert [unit["dilations"][0] for unit in units] == [1, 1, 1, *[2] * 16, 2, 4]
    assert [unit["dilations"][0] for unit in Xception("71", 16)._units()] == [*[1] * 22, 2]


def test_flows_may_be_lists():
    model = Xception(entry=[[8, 2], [16, 2], [24, 2]], exit=[[24, 32, 32], [40, 40, 48]])
    assert hash(model) == hash(model.clone())
    assert model.channels == (16, 24, 24, 48)


def test_multi_grid_multiplies_the_last_units_dilations():
    for output_stride, expected in ((32, (1, 2, 4)), (16, (2, 4, 8)), (8, (4, 8, 16))):
        units = Xception(output_stride=output_stride, multi_grid=[1, 2, 4])._units()
        assert units[-1]["dilations"] == expected
        assert len(set(units[-2]["dilations"])) == 1


def test_named_maps_are_handed_out_in_the_order_asked_for():
    model = Xception(**TINY["65"], outputs=("efb2u1c2", "mfb1u2c3", "map3", "map2", "map0"))
    variables = random_variables(model)
    low, branch, last, middle, first = jax.jit(model.apply)(
        variables, jax.random.normal(jax.random.key(1), (1, 33, 32, 3))
    )
    assert model.channels == (16, 24, 48, 24, 16) and last.shape[-1] == 48
    np.testing.assert_array_equal(low, first)
    unit = XceptionUnit(**model._units()[4])  # behind three of the entry flow, the second of the middle flow
    of_unit = {name: part["blocks_4"] for name, part in variables.items()}
    np.testing.assert_allclose(unit.apply(of_unit, middle - branch)[0], middle, atol=1e-4)
    assert Xception("65", outputs=("efb2u1c2", "mfb1u16c3", "map3")).channels == (256, 728, 2048)
