"""Transformer layers: PyTorch's numbers, drop path's statistics, windows there and back, the CPU forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.models import attention, layers, platforms

RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_gelu_is_the_exact_one(golden):
    case = golden("op_pool_act")
    np.testing.assert_allclose(attention.gelu(case["in/act"]), case["out/gelu_erf"], atol=1e-6)


def test_gelu_is_not_its_tanh_approximation():
    assert abs(float(attention.gelu(jnp.float32(2.0))) - 1.9544997) < 1e-6  # x Phi(x)


def test_layer_norm_with_large_mean():
    """The two-pass variance: E[x**2] - E[x]**2 would lose it."""
    x = 1000 + draw(2, 3, 5, 64)
    y = attention.LayerNorm(1e-5).apply({"params": {"scale": jnp.full(64, 2.0), "bias": jnp.ones(64)}}, x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, 2 * exact + 1, atol=2e-3)


@pytest.mark.parametrize("function", ["normalize_channels", "add_bias"])
def test_cpu_form_equals_xlas_own(function):
    arguments = (
        [draw(2, 3, 5, 8), draw(8), draw(8)] if function == "normalize_channels" else [draw(2, 3, 5, 8), draw(8)]
    )
    options = (1e-5,) if function == "normalize_channels" else ()
    cotangent = draw(2, 3, 5, 8)

    def value_and_gradients():
        y, pull = jax.vjp(lambda *a: getattr(layers, function)(*a, *options), *arguments)
        return y, pull(cotangent)

    fast = value_and_gradients()
    with platforms.for_platform("tpu"):
        plain = value_and_gradients()
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3, 1))
    layer = attention.DropPath(0.3)
    y = layer.apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert jnp.all(y == y[:, :1, :1])
    assert abs(float((y == 0).mean()) - 0.3) < 0.03
    np.testing.assert_array_equal(layer.apply({}, x, True), x)  # no key
    np.testing.assert_array_equal(layer.apply({}, x, False, rngs={"dropout": jax.random.key(0)}), x)


def test_drop_path_rates_reach_both_ends():
    rates = attention.drop_path_rates(0.3, (2, 2, 6, 2))
    assert [len(stage) for stage in rates] == [2, 2, 6, 2]
    np.testing.assert_allclose(sum(rates, []), np.linspace(0, 0.3, 12), atol=1e-12)
    assert attention.drop_path_rates(0.5, (1,)) == [[0.0]]


def test_attention_is_jaxs():
    q, k, v, bias = draw(2, 7, 3, 4), draw(2, 5, 3, 4), draw(2, 5, 3, 4), draw(3, 7, 5)
    expected = jax.nn.dot_product_attention(q, k, v, bias[None])
    np.testing.assert_allclose(attention.attend(q, k, v, bias), expected, atol=1e-5)


def test_attention_of_a_cpu_is_jaxs_with_gradients():
    arguments, cotangent = [draw(2, 7, 3, 8), draw(2, 5, 3, 8), draw(2, 5, 3, 8)], draw(2, 7, 3, 8)
    arguments[0] *= 30  # exponentials of which most vanish

    def value_and_gradients(platform: str):
        with platforms.for_platform(platform):
            y, pull = jax.vjp(layers.attention, *arguments)
            return y, pull(cotangent)

    for a, b in zip(*map(jax.tree.leaves, map(value_and_gradients, ("cpu", "tpu"))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-5)


def test_attention_in_bfloat16_has_a_float32_softmax():
    q, k, v = (draw(1, 300, 1, 8).astype(jnp.bfloat16) for _ in range(3))
    exact = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v)))
    rough = attention.attend(q, k, v)
    assert rough.dtype == jnp.bfloat16
    assert jnp.abs(rough - exact).max() < 0.02


@settings(max_examples=20)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    window=st.integers(1, 4) | st.tuples(st.integers(1, 3), st.integers(1, 4)),
    batch=st.integers(1, 2),
)
def test_windows_there_and_back(rows, columns, window, batch):
    height, width = (window, window) if isinstance(window, int) else window
    size = (rows * height, columns * width)
    x = np.arange(batch * size[0] * size[1] * 2).reshape(batch, *size, 2)
    windows = attention.to_windows(x, window)
    assert windows.shape == (batch * rows * columns, height * width, 2)
    np.testing.assert_array_equal(windows[0], x[0, :height, :width].reshape(-1, 2))
    np.testing.assert_array_equal(attention.from_windows(windows, window, size), x)


def test_padding_is_at_the_bottom_and_right():
    x = jnp.ones((1, 5, 6, 1))
    padded = attention.pad_to_multiple(x, (4, 3))
    assert padded.shape == (1, 8, 6, 1)
    assert jnp.all(padded[:, :5] == 1) and jnp.all(padded[:, 5:] == 0)
    assert attention.pad_to_multiple(x, (5, 2)) is x


def test_reduced_attention_drops_the_remainder():
    """Keys come from whole cells only: what lies in the rest of the map changes its own query alone."""
    layer = attention.SelfAttention(2, reduction=2)
    x = draw(1, 5, 4, 4)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x)
    changed = layer.apply(variables, x.at[:, 4].add(1.0))
    np.testing.assert_allclose(changed[:, :4], y[:, :4], atol=1e-6)
    assert jnp.abs(changed[:, 4] - y[:, 4]).max() > 1e-3
