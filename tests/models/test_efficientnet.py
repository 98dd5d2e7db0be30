"""EfficientNet: every published size, TensorFlow's padding, the rules that the torch witnesses cannot show."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from se_jax.importers import import_weights
from se_jax.models.encoders.efficientnet import (
    VARIANTS,
    EfficientNet,
    FusedMBConv,
    MBConv,
    Style,
    pad_same,
    round_channels,
)
from se_jax.models.layers import BatchNorm, conv2d
from tests.conftest import assert_close_to_reference

pytestmark = pytest.mark.usefixtures("accelerator_form")
TINY = {"width": 0.25, "depth": 0.4}
CHANNELS = {
    "b0": (24, 40, 112, 320),
    "b1": (24, 40, 112, 320),
    "b2": (24, 48, 120, 352),
    "b3": (32, 48, 136, 384),
    "b4": (32, 56, 160, 448),
    "b5": (40, 64, 176, 512),
    "b6": (40, 72, 200, 576),
    "b7": (48, 80, 224, 640),
    "lite0": (24, 40, 112, 320),
    "lite1": (24, 40, 112, 320),
    "lite2": (24, 48, 120, 352),
    "lite3": (32, 48, 136, 384),
    "lite4": (32, 56, 160, 448),
}
MILLIONS = {  # of the encoder; of the whole classifier
    "b0": (3.60, 5.29),
    "b1": (6.10, 7.79),
    "b2": (7.20, 9.11),
    "b3": (10.10, 12.23),
    "b4": (16.74, 19.34),
    "b5": (27.29, 30.39),
    "b6": (39.40, 43.04),
    "b7": (62.14, 66.35),
    "lite0": (2.96, 4.65),
    "lite1": (3.72, 5.42),
    "lite2": (4.36, 6.09),
    "lite3": (6.42, 8.20),
    "lite4": (11.15, 13.01),
}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes(variant):
    """Channels, parameters, and odd sizes rounded up."""
    model = EfficientNet(variant)
    maps, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 62, 3))))
    assert model.channels == CHANNELS[variant]
    expected = [(1, -(-97 // s), -(-62 // s), c) for s, c in zip((4, 8, 16, 32), CHANNELS[variant], strict=True)]
    assert [leaf.shape for leaf in maps] == expected
    encoder = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
    inputs, classes = model.channels[-1], 1000
    features = 1280 if model.lite else round_channels(1280 * VARIANTS[variant]["width"])
    head = (inputs * features + 2 * features + (features + 1) * classes) / 1e6  # convolution, BatchNorm, classifier
    assert (round(encoder, 2), round(encoder + head, 2)) == MILLIONS[variant]


def test_symmetric_padding_rounds_odd_sizes_up_too():
    model = EfficientNet(**TINY, padding="symmetric")
    maps, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 97, 62, 3))))
    assert [leaf.shape[1:3] for leaf in maps] == [(25, 16), (13, 8), (7, 4), (4, 2)]


def test_blocks_are_rounded_up_and_channels_to_eights():
    assert [stage.blocks for stage in EfficientNet("b4").stages] == [2, 4, 4, 6, 6, 8, 2]
    assert [stage.blocks for stage in EfficientNet("b7").stages] == [4, 7, 7, 10, 10, 13, 4]
    # 10 would be 8, but that loses more than a tenth
    assert [round_channels(c) for c in (4, 10, 11.9, 12, 44.8, 45, 123.2)] == [8, 16, 16, 16, 48, 48, 120]


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("strides", [1, 2])
def test_same_padding_is_that_of_tensorflow(kernel_size, strides):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(kernel_size, kernel_size, 2, 3)).astype(np.float32)
    for size in [(1, 2), (4, 4), (5, 7), (6, 7), (9, 8)]:
        x = rng.normal(size=(1, *size, 2)).astype(np.float32)
        padded, padding = pad_same(x, kernel_size, strides)
        actual = conv2d(padded, kernel, strides=strides, padding=padding)
        expected = lax.conv_general_dilated(
            x, kernel, (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        assert padding == 0 or padded is x


def modules_of(model, kind) -> dict:
    """Path -> attributes of all submodules of a kind, in order of their calls."""
    found = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, kind):
            found["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes(model)
    return found


@pytest.mark.parametrize("fused", [False, True])
def test_drop_path_rises_over_the_blocks_and_stays_below_the_rate(fused):
    blocks = modules_of(EfficientNet("b0", fused=fused), MBConv | FusedMBConv)
    assert list(blocks)[:3] == ["blocks_0_0", "blocks_1_0", "blocks_1_1"]
    np.testing.assert_allclose([block.drop_path for block in blocks.values()], [0.2 * i / 16 for i in range(16)])


@pytest.mark.parametrize(
    ("options", "epsilon"),
    [({}, 1e-3), ({"padding": "symmetric"}, 1e-5), ({"padding": "symmetric", "epsilon": 1e-3, "momentum": 0.1}, 1e-3)],
)
def test_epsilon_comes_with_the_padding_or_is_given(options, epsilon):
    norms = modules_of(EfficientNet(**TINY, **options), BatchNorm)
    assert {(norm.epsilon, norm.momentum) for norm in norms.values()} == {(epsilon, options.get("momentum", 0.01))}


def test_a_dropped_block_is_its_input():
    """In training, with a key; a branch that stays is scaled; a block with a stride is never dropped."""
    style = Style(same_padding=True, epsilon=1e-3, activation=nn.silu, dtype=jnp.float32)
    block = MBConv(8, 2, 3, 1, drop_path=0.75, style=style)
    x = jax.random.normal(jax.random.key(0), (32, 2, 2, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)

    @functools.partial(jax.jit, static_argnums=0)
    def train(strides, rngs):
        model = block.clone(strides=strides)
        return model.apply(variables, x, True, rngs=rngs, mutable=["batch_stats"])[0]

    key = {"dropout": jax.random.key(2)}
    branch, dropped = np.asarray(train(1, {}) - x), np.asarray(train(1, key) - x)
    kept = np.abs(dropped).max((1, 2, 3)) > 0
    assert 0 < kept.sum() < 20
    np.testing.assert_allclose(dropped[kept], branch[kept] * 4, atol=1e-4)
    np.testing.assert_array_equal(train(2, {}), train(2, key))


def test_a_strided_block_has_no_shortcut_even_where_the_shape_stays():
    style = Style(same_padding=True, epsilon=1e-3, activation=nn.silu, dtype=jnp.float32)
    block = FusedMBConv(8, 1, 3, 2, drop_path=0.0, style=style)
    pixel = jnp.ones((1, 1, 1, 8))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(block.init, jax.random.key(0), pixel))
    assert not jax.jit(block.apply)(zeros, pixel).any()


def test_squeeze_is_a_quarter_of_the_blocks_input_not_of_its_expansion():
    params = shapes(EfficientNet("b0"))["params"]
    for block, squeezed, hidden in (("blocks_0_0", 8, 32), ("blocks_1_0", 4, 96), ("blocks_6_0", 48, 1152)):
        assert params[block]["se"]["conv_reduce"]["kernel"].shape == (1, 1, hidden, squeezed)
        assert params[block]["se"]["conv_expand"]["bias"].shape == (hidden,)


def test_initial_kernels_are_googles():
    style = Style(same_padding=True, epsilon=1e-3, activation=nn.silu, dtype=jnp.float32)
    block = MBConv(40, 6, 5, 1, drop_path=0.0, style=style)
    params = jax.jit(block.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 40)))["params"]
    assert abs(params["conv_dw"]["kernel"].std() / np.sqrt(2 / 25) - 1) < 0.05  # one output a channel, not all of them
    assert abs(params["conv_pw"]["kernel"].std() / np.sqrt(2 / 240) - 1) < 0.05


def test_lite_is_the_references(golden):
    """timm's with ReLU6, no squeeze, and a stem, a first and a last stage that are not scaled."""
    case = golden("bb_efficientnet_lite")
    encoder = EfficientNet("lite0", width=0.1, depth=0.4)
    assert [stage.blocks for stage in encoder.stages] == [1, 1, 1, 2, 2, 2, 1]
    assert [stage.blocks for stage in EfficientNet("lite4").stages] == [1, 4, 4, 6, 6, 8, 1]
    variables = import_weights(encoder, case.group("sd"), shapes(encoder))
    assert variables["params"]["conv_stem"]["kernel"].shape == (3, 3, 3, 32)
    maps = jax.jit(encoder.apply)(variables, case["in/0"].transpose(0, 2, 3, 1))  # odd sizes
    for place, actual in enumerate(maps):
        assert_close_to_reference(actual, case[f"out/0/{place}"].transpose(0, 2, 3, 1), 1e-5)
    with pytest.raises(ValueError, match="fused is True with variant 'lite0'; expected one of b0 to b7"):
        EfficientNet("lite0", fused=True)


def test_fused_form_has_dense_kernels_of_the_blocks_size_and_no_squeeze():
    params = shapes(EfficientNet("b0", fused=True))["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == 27.84
    assert set(params["blocks_0_0"]) == {"conv", "bn1"}  # nothing to expand
    assert params["blocks_0_0"]["conv"]["kernel"].shape == (3, 3, 32, 16)
    assert set(params["blocks_2_0"]) == {"conv_exp", "bn1", "conv_pwl", "bn2"}
    assert params["blocks_2_0"]["conv_exp"]["kernel"].shape == (5, 5, 24, 144)
