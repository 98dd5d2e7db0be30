"""MobileNetV2 against the PyTorch reference, and properties that hold for every width and output stride."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders.mobilenetv2 import InvertedResidual, MobileNetV2, scaled_channels
from tests import tiny
from tests.conftest import assert_close_to_reference


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_equals_the_reference_at_even_and_odd_sizes(golden):
    case = golden("bb_mobilenetv2_w050_d32")
    model = MobileNetV2(width=case.meta["kwargs"]["widen_factor"], output_stride=32)
    variables = import_weights(model, case.group("sd"), shapes(model))
    for size in (0, 1):
        maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
        for stage, actual in enumerate(maps):
            assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("width", "channels"), [(1.0, (24, 32, 96, 320)), (0.35, (8, 16, 32, 112)), (1.4, None)])
@pytest.mark.parametrize("output_stride", [8, 32])
def test_shapes_and_channels(width, channels, output_stride):
    model = MobileNetV2(width=width, output_stride=output_stride)
    assert channels is None or model.channels == channels
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 65, 3)))[0])
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    expected = [(1, -(-97 // s), -(-65 // s), c) for s, c in zip(strides, model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected


@pytest.mark.parametrize("output_stride", [8, 32])
def test_parameter_count_is_the_published_one(output_stride):
    params = shapes(MobileNetV2(output_stride=output_stride))["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == 1.81


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (32, 0.5, 16), (24, 0.5, 16), (32, 0.35, 16), (16, 0.1, 8), (24, 1.4, 32), (96, 1.4, 136)],
)
def test_channels_are_multiples_of_8_and_at_least_90_percent(channels, width, expected):
    """24 / 2 = 12 lies between two multiples and goes up; 32 * 0.35 = 11.2 would go down to 8, which is too little."""
    assert scaled_channels(channels, width) == expected


def test_the_stem_is_scaled_too():
    kernels = {width: shapes(MobileNetV2(width))["params"]["conv1"]["conv"]["kernel"].shape for width in (0.5, 1.4)}
    assert kernels == {0.5: (3, 3, 3, 16), 1.4: (3, 3, 3, 48)}


def test_only_the_first_block_of_a_layer_is_strided_or_dilated():
    plain = (1, 1)
    begin = [[plain], [(2, 1), plain], [(2, 1), plain, plain]]
    assert MobileNetV2(output_stride=32)._geometry() == [
        *begin,
        [(2, 1), plain, plain, plain],
        [plain, plain, plain],
        [(2, 1), plain, plain],
        [plain],
    ]
    assert MobileNetV2(output_stride=8)._geometry() == [
        *begin,
        [(1, 2), plain, plain, plain],
        [(1, 2), plain, plain],
        [(1, 4), plain, plain],
        [(1, 4)],
    ]


@pytest.mark.parametrize(("strides", "features", "shortcut"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_shortcut_where_it_fits_and_no_activation_behind_the_sum(strides, features, shortcut):
    """With the last scale at zero a block is its bias, -7, plus the shortcut if there is one."""
    block = InvertedResidual(features, 2, strides=strides)
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 8))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(block.init, jax.random.key(1), x))
    last = {"scale": jnp.zeros(features), "bias": jnp.full(features, -7.0)}
    variables["params"]["conv_2"]["bn"] = last
    y = jax.jit(block.apply)(variables, x)
    assert y.shape == (1, -(-5 // strides), 4 // strides, features)
    np.testing.assert_allclose(y, x - 7 if shortcut else jnp.full(y.shape, -7.0), rtol=1e-6)


class FirstBlocks(MobileNetV2):
    """Two of the seventeen blocks, since more take long to compile."""

    def _geometry(self):
        return [layer[:1] for layer in super()._geometry()[:2]]


def test_remat_changes_neither_variables_nor_gradients():
    plain = FirstBlocks(width=0.1)
    remat = plain.clone(remat=True)
    assert jax.tree.structure(shapes(plain)) == jax.tree.structure(shapes(remat))
    variables = tiny.init(plain)
    images = jax.random.normal(jax.random.key(1), (2, 33, 32, 3))

    def gradient(model):
        def loss(params):
            maps, new = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return sum(jnp.mean(m**2) for m in maps), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    for a, b in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 16}, "output_stride is 16; expected one of 8, 32"),
        ({"width": 0}, "width is 0; expected a positive multiplier"),
        ({"width": -0.5}, "width is -0.5"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV2(**options)
