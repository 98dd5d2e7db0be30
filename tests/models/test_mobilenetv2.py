"""MobileNetV2: its channels, strides and shortcuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.encoders.mobilenetv2 import InvertedResidual, MobileNetV2, scaled_channels


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


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
