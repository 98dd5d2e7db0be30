"""ResNet against the PyTorch reference, and properties that hold for every depth, variant and output stride."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders import ResNet
from se_jax.models.encoders.resnet import ResidualBlock
from se_jax.models.layers import max_pool
from tests.conftest import assert_close_to_reference


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.fixture(scope="module")
def resnet18():
    model = ResNet(depth=18, width=8)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("case", ["bb_r18v1c_d8", "bb_r50v1c_d8"])
def test_equals_the_reference_at_even_and_odd_sizes(golden, case):
    case = golden(case)
    model = ResNet(depth=case.meta["kwargs"]["depth"], width=case.meta["kwargs"]["base_channels"], output_stride=8)
    variables = import_weights(model, case.group("sd"), shapes(model))
    for size in (0, 1):
        maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
        for stage, actual in enumerate(maps):
            assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


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


def test_parameter_count_is_the_published_one():
    def count(model):
        params = shapes(model)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    assert round(count(ResNet(depth=50)) / 1e6, 2) == 23.53
    assert round(count(ResNet(depth=101)) / 1e6, 2) == 42.52


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
    entered = plain.clone(outputs=("b1u1c2",)).apply(variables, images)[0]
    entered = jax.nn.relu(entered + max_pool(stem))
    np.testing.assert_allclose(unit.apply(of_unit, entered), first, atol=1e-5)
    np.testing.assert_allclose(jax.nn.relu(branch + entered), first, atol=1e-5)
    widths = ResNet(50, "beta", 16, outputs=("conv1_3", "b1u2c3", "b3u6c3", "layer4")).channels
    assert widths == (128, 256, 1024, 2048)


def test_new_residual_branches_are_zero(resnet18):
    params = resnet18[1]["params"]
    assert not params["layer4_1"]["conv2"]["bn"]["scale"].any()
    assert params["layer4_1"]["conv1"]["bn"]["scale"].all()
    assert params["layer4_0"]["downsample"]["bn"]["scale"].all()


def test_remat_changes_neither_variables_nor_gradients(resnet18):
    plain, variables = resnet18
    remat = plain.clone(remat=True)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes(remat))
    images = jax.random.normal(jax.random.key(1), (2, 33, 32, 3))

    def gradient(model):
        def loss(params):
            maps, new = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return sum(jnp.mean(m**2) for m in maps), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    for a, b in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_maps_and_float32_variables():
    model = ResNet(depth=18, width=8, dtype=jnp.bfloat16)
    variables = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    maps = jax.eval_shape(model.apply, variables, jnp.zeros((1, 32, 32, 3)))
    assert {leaf.dtype for leaf in maps} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth is 20; expected one of 18, 34, 50, 101"),
        ({"variant": "v2"}, "variant is 'v2'"),
        ({"outputs": ("b1u9c3", "layer4")}, "outputs names b1u9c3; v1c of depth 50 has conv1_3, b1u1c3, .*layer4"),
        ({"variant": "v1b", "outputs": ("conv1_3",)}, "outputs names conv1_3; v1b"),
        ({"output_stride": 4}, "output_stride is 4; expected one of 8, 16, 32"),
        ({"multi_grid": (1, 2)}, "each of the 3 blocks"),
        ({"width": 9}, "positive even"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)
