"""ResNet: properties that hold for every depth, variant and output stride; DeepLab's form of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.encoders import ResNet
from se_jax.models.encoders.resnet import ResidualBlock
from se_jax.models.layers import max_pool
from tests import tiny


@pytest.fixture(scope="module")
def resnet18():
    model = ResNet(depth=18, width=8)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(
    ("depth", "variant", "output_stride"),
    [(18, "v1d", 8), (34, "v1b", 32), (50, "v1b", 8), (50, "v1d", 32), (101, "v1c", 16), (50, "beta", 16)],
)
def test_shapes_and_channels(depth, variant, output_stride):
    model = ResNet(depth=depth, variant=variant, width=8, output_stride=output_stride)
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 64, 3)))[0])
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    expected = [(1, -(-97 // s), -(-64 // s), c) for s, c in zip(strides, model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "expected"),
    [
        (8, None, [(1, 1, 1), (1, 1, 1, 1), (1, 2, 2, 2, 2, 2), (2, 4, 4)]),
        (16, None, [(1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 2, 2)]),
        (16, (1, 2, 4), [(1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 2, 4)]),
        (32, None, [(1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1)]),
    ],
)
def test_first_block_of_a_dilated_stage_has_half_the_dilation(output_stride, multi_grid, expected):
    assert ResNet(depth=50, output_stride=output_stride, multi_grid=multi_grid)._dilations() == expected


@pytest.mark.parametrize(
    ("output_stride", "strided", "dilations"),
    [(8, {"layer1_2"}, (1, 1, 2, 4)), (16, {"layer1_2", "layer2_3"}, (1, 1, 1, 2)), (32, None, (1, 1, 1, 1))],
)
def test_beta_strides_in_the_last_block_of_a_stage(output_stride, strided, dilations):
    """As stack_blocks_dense of DeepLab's code: what would exceed the output stride dilates the blocks behind it."""
    model = ResNet(50, "beta", output_stride, width=8)
    assert [set(stage) for stage in model._dilations()] == [{dilation} for dilation in dilations]
    _, state = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), jnp.zeros((1, 65, 65, 3)), capture_intermediates=True, mutable=True
        )
    )
    sides = {name: leaf["__call__"][0].shape[1] for name, leaf in state["intermediates"].items() if "layer" in name}
    names = list(sides)
    found = {name for before, name in zip(names, names[1:], strict=False) if sides[name] < sides[before]}
    found |= {"layer1_0"} if sides["layer1_0"] < 17 else set()
    assert found == (strided or {"layer1_2", "layer2_3", "layer3_5"})
    assert "downsample" not in state["params"]["layer2_3"]


def test_named_maps_are_what_deeplab_calls_by_these_names(resnet18):
    plain, variables = resnet18
    images = jax.random.normal(jax.random.key(1), (1, 33, 32, 3))
    model = plain.clone(outputs=("conv1_3", "b1u2c2", "layer1", "layer4"))
    stem, branch, first, last = jax.jit(model.apply)(variables, images)
    maps = jax.jit(plain.apply)(variables, images)
    np.testing.assert_allclose(first, maps[0], atol=1e-6)
    np.testing.assert_allclose(last, maps[3], atol=1e-6)
    assert stem.shape == (1, 17, 16, 8) and stem.min() == 0
    unit = ResidualBlock(8, bottleneck=False)
    of_unit = {name: part["layer1_1"] for name, part in variables.items()}
    entered = jax.jit(plain.clone(outputs=("b1u1c2",)).apply)(variables, images)[0]
    entered = jax.nn.relu(entered + max_pool(stem))
    np.testing.assert_allclose(jax.jit(unit.apply)(of_unit, entered), first, atol=1e-5)
    np.testing.assert_allclose(jax.nn.relu(branch + entered), first, atol=1e-5)
    widths = ResNet(50, "beta", 16, outputs=("conv1_3", "b1u2c3", "b3u6c3", "layer4")).channels
    assert widths == (128, 256, 1024, 2048)


def test_new_residual_branches_are_zero(resnet18):
    params = resnet18[1]["params"]
    assert not params["layer4_1"]["conv2"]["bn"]["scale"].any()
    assert params["layer4_1"]["conv1"]["bn"]["scale"].all()
    assert params["layer4_0"]["downsample"]["bn"]["scale"].all()


def test_frozen_norms_keep_what_they_start_from():
    """In training as in inference; nothing of them moves, all else gets a gradient."""
    model = ResNet(depth=18, width=8, variant="v1b", output_stride=32, frozen_norm=True)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    variables = tiny.fill(jax.eval_shape(model.init, jax.random.key(0), images))

    @jax.jit
    def run(params):
        maps, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return sum(jnp.mean(jnp.square(x)) for x in maps), (maps, updates)

    (_, (maps, updates)), gradient = jax.value_and_grad(run, has_aux=True)(variables["params"])
    for found, expected in zip(maps, jax.jit(model.apply)(variables, images), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert jnp.any(leaf != 0) == (path[-1].key == "kernel"), path
