"""HRNet against the PyTorch reference, and properties that hold for every variant."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders.hrnet import ExchangeModule, HRNet
from se_jax.models.layers import resize
from tests.conftest import assert_close_to_reference

SMALLEST = {"width": 2, "layer1_blocks": 1, "layer1_width": 2, "modules": (1, 1, 1), "blocks": 1}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_equals_the_reference_at_even_and_odd_sizes(golden):
    """Also: a bottleneck whose input has its output's channels has no shortcut convolution (64 = 4 x 16 here)."""
    case = golden("bb_hrnet")
    stages = case.meta["kwargs"]["extra"]
    model = HRNet(
        width=stages["stage2"]["num_channels"][0],
        layer1_blocks=stages["stage1"]["num_blocks"][0],
        layer1_width=stages["stage1"]["num_channels"][0],
        modules=[stages[f"stage{stage}"]["num_modules"] for stage in (2, 3, 4)],
        blocks=stages["stage2"]["num_blocks"][0],
    )
    variables = import_weights(model, case.group("sd"), shapes(model))
    for size in (0, 1):
        maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
        for stage, actual in enumerate(maps):
            assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("variant", "millions"), [("w18_small", 3.86), ("w18", 9.56), ("w32", 29.31), ("w48", 65.33)])
def test_parameter_counts_and_shapes(variant, millions):
    model = HRNet(variant)
    maps, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 65, 3))))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6, 2) == millions
    width = model.sizes.width
    assert model.channels == (width, 2 * width, 4 * width, 8 * width)
    expected = [(1, -(-97 // s), -(-65 // s), c) for s, c in zip((4, 8, 16, 32), model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected


def test_transition_of_the_first_branch_only_where_channels_change():
    for layer1_width, there in ((2, False), (3, True)):
        params = shapes(HRNet(**SMALLEST | {"width": 8, "layer1_width": layer1_width}))["params"]
        assert ("transition1_0" in params) == there
        assert {"transition1_1", "transition2_2", "transition3_3"} <= params.keys()
        assert not params.keys() & {"transition2_0", "transition2_1", "transition3_0"}


def test_normalisations_of_new_blocks_have_weight_one():
    """Unlike ResNet's, no residual branch starts at zero."""
    model = ExchangeModule(2, 1)
    maps = (jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 1, 1, 4)))
    for path, leaf in jax.tree.leaves_with_path(jax.jit(model.init)(jax.random.key(0), maps)["params"]):
        assert path[-1].key != "scale" or leaf.all()


def test_odd_maps_are_resized_twice():
    """Up by 2, then to the finer map's size: along the odd axis not the same as one resize."""
    module = ExchangeModule(3, 1)
    maps = tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(1, 5, 4, 3), (1, 3, 2, 6)]))
    variables = jax.eval_shape(module.init, jax.random.key(0), maps)
    # no residual branch and no exchange, but for the first channels of the coarser map
    silent = jax.tree.map_with_path(
        lambda p, leaf: jnp.full(leaf.shape, p[-1].key in ("scale", "var"), float), variables
    )
    silent["params"]["fuse_layers_0_1"]["conv"]["kernel"] = jnp.eye(6, 3)[None, None]
    finest = jax.jit(module.apply)(silent, maps)[0]
    coarse = nn.relu(maps[1])[..., :3] / np.sqrt(1 + 1e-5)
    twice = resize(resize(coarse, (6, 4)), (5, 4))
    np.testing.assert_allclose(finest, nn.relu(maps[0]) + twice, rtol=1e-5, atol=1e-5)
    assert jnp.abs(twice - resize(coarse, (5, 4))).max() > 1e-2


def test_remat_changes_neither_variables_nor_gradients():
    plain = HRNet(**SMALLEST)
    assert jax.tree.structure(shapes(plain)) == jax.tree.structure(shapes(plain.clone(remat=True)))
    plain = ExchangeModule(2, 1)
    maps = tuple(jax.random.normal(jax.random.key(i), (2, 6 >> i, 4 >> i, 2 << i)) for i in (0, 1))
    variables = jax.jit(plain.init)(jax.random.key(2), maps)

    def gradient(model):
        def loss(params):
            fused, new = model.apply({**variables, "params": params}, maps, True, mutable=["batch_stats"])
            return sum(jnp.mean(m**2) for m in fused), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    pairs = zip(*(jax.tree.leaves(gradient(model)) for model in (plain, plain.clone(remat=True))), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "w17"}, "HRNet variant is 'w17'; expected one of w18_small, w18, w32, w48"),
        ({"modules": (1, 4)}, "modules is .1, 4.; expected three positive numbers"),
        ({"modules": (1, 0, 3)}, "expected three positive numbers"),
        ({"width": 0}, "width is 0; expected a positive number"),
        ({"blocks": 0}, "blocks is 0"),
        ({"layer1_blocks": 0}, "layer1_blocks is 0"),
        ({"layer1_width": -1}, "layer1_width is -1"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HRNet(**options)
