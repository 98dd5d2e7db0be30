"""Layers against PyTorch's operators."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.models import layers, platforms
from tests.conftest import assert_close_to_reference, part_and_whole


def nhwc(array):
    return np.asarray(array).transpose(0, 2, 3, 1)


def once(function, *arguments):
    """The result of a function compiled for one call: fast to compile, not fast to run."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*arguments)


# --- the reference's operators


@part_and_whole
@pytest.mark.usefixtures("platform_form")
def test_resize_equals_the_reference(golden, which):
    case = golden("op_resize_bilinear", which)
    for spec in case.meta["cases"]:
        size, align_corners = tuple(spec["out"]), spec["align_corners"]
        actual = once(lambda x: layers.resize(x, size, align_corners), nhwc(case[f"in/{spec['i']}"]))  # noqa: B023
        assert_close_to_reference(actual, nhwc(case[f"out/{spec['i']}"]))


@part_and_whole
def test_adaptive_pooling_equals_the_reference(golden, which):
    case = golden("op_adaptive_avg_pool", which)
    for spec in case.meta["cases"]:
        actual = once(lambda x: layers.adaptive_avg_pool(x, spec["pool"]), nhwc(case[f"in/{spec['i']}"]))  # noqa: B023
        assert_close_to_reference(actual, nhwc(case[f"out/{spec['i']}"]))


@pytest.mark.usefixtures("platform_form")
def test_pooling_equals_the_reference(golden):
    case = golden("op_pool_act")
    for i in (0, 1):
        x = nhwc(case[f"in/{i}"])
        assert_close_to_reference(layers.max_pool(x), nhwc(case[f"out/maxpool/{i}"]))
        assert_close_to_reference(layers.avg_pool_ceil(x, 2), nhwc(case[f"out/avgpool_ceil/{i}"]))


@part_and_whole
@pytest.mark.usefixtures("platform_form")
def test_convolution_equals_the_reference(golden, which):
    case = golden("op_conv", which)
    for spec in case.meta["cases"]:
        kernel = case[f"sd/{spec['i']}.weight"].transpose(2, 3, 1, 0)
        geometry = {"strides": spec["stride"], "padding": spec["pad"], "dilation": spec["dilation"]}
        module = layers.Conv(8, spec["k"], **geometry, groups=spec["groups"], use_bias=True)
        params = {"kernel": kernel, "bias": case[f"sd/{spec['i']}.bias"]}
        actual = once(module.apply, {"params": params}, nhwc(case[f"in/{spec['i']}"]))
        assert_close_to_reference(actual, nhwc(case[f"out/{spec['i']}"]))


@pytest.mark.usefixtures("platform_form")
def test_batchnorm_equals_the_reference_in_training(golden):
    case = golden("op_batchnorm_train")
    variables = {
        "params": {"scale": case["sd/weight"], "bias": case["sd/bias"]},
        "batch_stats": {"mean": case["sd/running_mean"], "var": case["sd/running_var"]},
    }
    for step in (0, 1):
        y, new = layers.BatchNorm().apply(variables, nhwc(case[f"in/{step}"]), True, mutable=["batch_stats"])
        assert_close_to_reference(y, nhwc(case[f"out/{step}"]))
        variables = {**variables, **new}
        assert_close_to_reference(new["batch_stats"]["mean"], case[f"out/{step}/after/running_mean"])
        assert_close_to_reference(new["batch_stats"]["var"], case[f"out/{step}/after/running_var"])


# --- BatchNorm, dropout, initialisers


def test_batchnorm_refuses_a_single_value_a_channel():
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)))
    with pytest.raises(ValueError, match="at least 2 images"):
        module.apply(variables, jnp.zeros((1, 1, 1, 3)), True, mutable=["batch_stats"])


def test_batchnorm_writes_running_statistics_only_where_they_are_mutable():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)) + 5
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), x)
    assert variables["batch_stats"]["mean"].max() == 0  # initialising is not a step of training
    y = module.apply(variables, x, True)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)


@pytest.mark.parametrize("images", [1, 6, 300])
def test_batchnorm_of_channels_far_from_zero(images, platform_form):
    """The variance must not be the small difference of two large numbers, whatever the running mean is."""
    tolerance = 2e-3 if platform_form == "cpu" and images > 100 else 2e-4  # a CPU's mean is one long sum
    rng = np.random.default_rng(0)
    mean = np.array([0, 1, 1e3, -1e3, 1024, 1e-3, 1e3])  # at 1024 the value of a float's last bit changes
    std = np.array([1, 1, 1, 1, 1, 1e-6, 1])
    of_images = np.array([1, 0, 0, 1, 0, 0, 30])  # how far images' means are apart
    x = mean + std * rng.normal(size=(images, 4, 6, 7)) + of_images * rng.normal(size=(images, 1, 1, 7))
    x = x.astype(np.float32)
    count, mean, var = 24 * images, x.mean((0, 1, 2), np.float64), x.astype(np.float64).var((0, 1, 2))
    module = layers.BatchNorm(epsilon=0.0)
    for running_mean, running_var in ((np.zeros(7), np.ones(7)), (mean, var)):
        statistics = {"mean": jnp.float32(running_mean), "var": jnp.float32(running_var)}
        variables = {"params": {"scale": jnp.ones(7), "bias": jnp.zeros(7)}, "batch_stats": statistics}
        y, new = once(lambda v, x: module.apply(v, x, True, mutable=["batch_stats"]), variables, x)
        np.testing.assert_allclose(y, (x - mean) / np.sqrt(var), rtol=tolerance, atol=tolerance)
        expected = 0.9 * running_mean + 0.1 * mean
        np.testing.assert_allclose(new["batch_stats"]["mean"], expected, rtol=3e-6, atol=1e-6)
        expected = 0.9 * running_var + 0.1 * var * count / (count - 1)
        np.testing.assert_allclose(new["batch_stats"]["var"], expected, rtol=2e-4)


@pytest.mark.usefixtures("platform_form")
def test_batchnorm_gradient():
    """Against the gradient of the formula, taken by JAX in float32."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, weights = 3 + 2 * jax.random.normal(keys[0], (2, 4, 5, 6)), jax.random.normal(keys[1], (2, 4, 5, 6))
    params = {"scale": 1 + jax.random.normal(keys[2], (6,)), "bias": jax.random.normal(keys[3], (6,))}
    statistics = {"mean": jnp.zeros(6), "var": jnp.ones(6)}

    def ours(x, params):
        return jnp.vdot(weights, layers.BatchNorm().apply({"params": params, "batch_stats": statistics}, x, True))

    def formula(x, params):
        y = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        return jnp.vdot(weights, y * params["scale"] + params["bias"])

    actual, expected = (once(jax.grad(f, (0, 1)), x, params) for f in (ours, formula))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_batchnorm_over_eight_devices_is_over_the_whole_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = 2 + jax.random.normal(jax.random.key(0), (8, 3, 4, 5))
    variables = layers.BatchNorm().init(jax.random.key(0), x)

    @jax.jit
    def step(x):
        def loss(x):
            y, new = layers.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
            return jnp.sum(y**3), (y, new)

        return jax.grad(loss, has_aux=True)(x)

    for a, b in zip(jax.tree.leaves(step(x)), jax.tree.leaves(step(jax.device_put(x, split))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_dropout_draws_a_sample_and_channel():
    x = jnp.ones((64, 5, 6, 64))
    module = layers.ChannelDropout(0.25)
    y = np.asarray(module.apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert (y == y[:, :1, :1]).all()
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    draws = y[:, 0, 0] > 0
    assert abs(draws.mean() - 0.75) < 0.03
    assert draws.std(axis=0).min() > 0  # another draw for every sample
    assert draws.std(axis=1).min() > 0  # and for every channel


@pytest.mark.parametrize(
    ("rate", "train", "key"), [(0.5, False, True), (0.5, True, False), (0.0, True, True), (-1, True, True)]
)
def test_dropout_rests(rate, train, key):
    rngs = {"dropout": jax.random.key(0)} if key else {}
    x = jnp.ones((2, 3, 3, 8))
    assert (layers.ChannelDropout(rate).apply({}, x, train, rngs=rngs) == x).all()


@pytest.mark.parametrize("groups", [1, 256])
def test_convolutions_start_kaiming_normal(groups):
    module = layers.Conv(256, 3, groups=groups)
    kernel = np.asarray(module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 256)))["params"]["kernel"])
    expected = np.sqrt(2 / (256 * 9))
    assert abs(kernel.std() / expected - 1) < 0.05
    assert abs(kernel).max() > 3 * expected  # not truncated


# --- convolution


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    taps=st.sampled_from([1, 2, 3, 5]),
    strides=st.integers(1, 3),
    padding=st.integers(0, 6),
    dilation=st.integers(1, 6),
)
def test_tap_bias_is_one_more_channel_of_ones(size, taps, strides, padding, dilation):
    if min(size) + 2 * padding < dilation * (taps - 1) + 1:
        return  # no output
    geometry = {"strides": strides, "padding": padding, "dilation": dilation}
    bias = np.random.default_rng(0).normal(size=(taps, taps, 3)).astype(np.float32)
    shape = layers.tap_bias_map(bias, size, **geometry).shape

    def value_and_gradient(function):
        value, pull = jax.vjp(function, bias)
        return value, *pull(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    def added(bias):
        return layers.add_tap_bias(jnp.zeros((2, *shape)), bias, size, *geometry.values()).mean(0)

    actual, expected = once(
        lambda: (
            value_and_gradient(added),
            value_and_gradient(lambda bias: layers.conv2d(jnp.ones((1, *size, 1)), bias[:, :, None], **geometry)[0]),
        )
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def convolution_and_gradients(x, kernel, weights, groups, **geometry):
    def loss(x, kernel):
        y = layers.conv2d(x, kernel, groups=groups, **geometry)
        return jnp.vdot(weights, y), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
    return y, *gradients


@pytest.mark.parametrize(
    ("size", "taps", "groups", "outputs", "geometry"),
    [
        ((9, 7), 3, 6, 6, {"padding": 1}),  # depthwise
        ((9, 8), 3, 6, 6, {"padding": 1, "strides": 2}),
        ((8, 11), 3, 6, 6, {"padding": 4, "dilation": 4}),
        ((5, 6), 3, 6, 6, {"padding": 12, "dilation": 12}),  # only the middle tap meets the map
        ((10, 9), 7, 6, 6, {"padding": 3}),
        ((11, 10), 5, 6, 6, {"padding": 0, "strides": 3, "dilation": 2}),
        ((9, 7), 3, 1, 5, {"padding": 4, "dilation": 4}),  # taps
        ((5, 7), 3, 1, 5, {"padding": 12, "dilation": 12}),
        ((12, 9), 3, 1, 5, {"padding": 2, "dilation": 3}),
        ((9, 7), 1, 1, 5, {"strides": 2}),  # matrix product
        ((9, 7), 3, 2, 4, {"padding": 1}),  # neither: left to XLA
    ],
)
def test_convolutions_of_a_cpu_equal_xlas_with_gradients(size, taps, groups, outputs, geometry):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 6))
    kernel = jax.random.normal(keys[1], (taps, taps, 6 // groups, outputs))
    shape = jax.eval_shape(lambda: layers.conv2d(x, kernel, groups=groups, **geometry)).shape
    weights = jax.random.normal(keys[2], shape)
    results = []
    for platform in ("cpu", "tpu"):
        with platforms.for_platform(platform):
            results.append(
                once(lambda x, kernel: convolution_and_gradients(x, kernel, weights, groups, **geometry), x, kernel)
            )
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", [3, 30])
def test_gradients_of_large_products_equal_xlas(outputs):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 32, 16, 16)), jax.random.normal(keys[1], (16, outputs))
    dy = jax.random.normal(keys[2], (2, 32, 16, outputs))
    actual = jax.vjp(layers.linear, x, kernel)[1](dy)
    expected = jax.vjp(jnp.matmul, x, kernel)[1](dy)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("geometry", [{"padding": 1, "dilation": 2}, {"padding": 3, "strides": 2}])
def test_gradients_of_large_maps_kernels_equal_xlas(geometry):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 19, 18, 24)), jax.random.normal(keys[1], (3, 5, 24, 3))
    with platforms.for_platform("tpu"):
        y = layers.conv2d(x, kernel, **geometry)
        weights = jax.random.normal(keys[2], y.shape)
        expected = once(lambda x, kernel: convolution_and_gradients(x, kernel, weights, 1, **geometry), x, kernel)
    actual = once(lambda x, kernel: convolution_and_gradients(x, kernel, weights, 1, **geometry), x, kernel)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@settings(max_examples=20)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    depthwise=st.booleans(),
    taps=st.sampled_from([2, 3]),
    strides=st.integers(1, 2),
    padding=st.integers(0, 8),
    dilation=st.integers(2, 8),
)
def test_convolutions_of_any_geometry(size, depthwise, taps, strides, padding, dilation):
    if min(size) + 2 * padding < dilation * (taps - 1) + 1:
        return  # no output
    rng = np.random.default_rng(0)
    groups = 4 if depthwise else 1
    x = rng.normal(size=(1, *size, 4)).astype(np.float32)
    kernel = rng.normal(size=(taps, taps, 4 // groups, 4)).astype(np.float32)
    geometry = {"strides": strides, "padding": padding, "dilation": dilation}

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def value_and_gradients(convolution):
        y, pull = jax.vjp(convolution, x, kernel)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    actual = once(lambda: value_and_gradients(lambda x, k: layers.conv2d(x, k, groups=groups, **geometry)))
    for a, b in zip(actual, once(lambda: value_and_gradients(xla)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# --- pooling


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 2), (6, 5)])
def test_max_pooling_of_a_cpu_equals_xlas_with_gradient(size):
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, *size, 5)))  # zeros tie: the first one takes the gradient

    def value_and_gradient(x):
        y, pull = jax.vjp(layers.max_pool, x)
        return y, *pull(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))

    results = []
    for platform in ("cpu", "tpu"):
        with platforms.for_platform(platform):
            results.append(once(value_and_gradient, x))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)


# --- blocks, single pixels


def test_blocks_have_the_reference_order():
    """Convolution, norm, activation: a negative channel comes out zero."""
    block = layers.ConvBlock(4, 1, activation=nn.relu)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    variables = block.init(jax.random.key(1), x)
    assert set(variables["params"]) == {"conv", "bn"}
    assert float(block.apply(variables, x).min()) == 0


def test_a_single_pixel_is_convolved_where_an_export_is_traced():
    """TFLite refuses the product of one row, which pooling to one pixel leaves of a batch of one."""
    x, kernel = jnp.ones((1, 1, 1, 8)), jnp.ones((1, 1, 8, 6))
    with platforms.for_platform("tpu"):
        program = str(jax.make_jaxpr(layers.conv2d)(x, kernel))
        pair = str(jax.make_jaxpr(layers.conv2d)(x.repeat(2, 0), kernel))
    assert "conv_general_dilated" in program and "dot_general" not in program and "dot_general" in pair
