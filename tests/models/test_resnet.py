"""ResNet against the PyTorch reference, and properties that hold for every depth, variant and output stride."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders import ResNet
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
    [(18, "v1d", 8), (34, "v1b", 32), (50, "v1b", 8), (50, "v1d", 32), (101, "v1c", 16)],
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
        ({"output_stride": 4}, "output_stride is 4; expected one of 8, 16, 32"),
        ({"multi_grid": (1, 2)}, "each of the 3 blocks"),
        ({"width": 9}, "positive even"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)
