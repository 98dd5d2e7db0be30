"""Bilinear resizing: torch's rule at any size, and the closed forms of what upsampling does to the variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.models import layers
from tests.models.test_layers import once

# --- resize


def interpolation_matrix(source, length, align_corners=False):
    """The [length, source] matrix of one axis' resize, read off by resizing unit vectors."""
    columns = jnp.eye(source)[:, :, None, None]  # one image a unit vector
    rows = once(lambda x: layers.resize(x, (length, 1), align_corners), columns)
    return np.asarray(rows)[:, :, 0, 0].T.astype(np.float64)


def torch_matrix(source, length, align_corners):
    """torch's bilinear weights, written down from its definition in float64."""
    out = np.arange(length)
    if align_corners:
        position = out * (source - 1) / (length - 1) if length > 1 else np.zeros(1)
    else:
        position = np.maximum((out + 0.5) * source / length - 0.5, 0)
    lower = np.minimum(np.floor(position).astype(int), source - 1)
    weight = position - lower
    matrix = np.zeros((length, source))
    np.add.at(matrix, (out, lower), 1 - weight)
    np.add.at(matrix, (out, np.minimum(lower + 1, source - 1)), weight)
    return matrix


@settings(max_examples=30)
@given(source=st.integers(1, 24), length=st.integers(1, 60), align_corners=st.booleans())
def test_resize_is_torchs_for_any_size(source, length, align_corners):
    actual = interpolation_matrix(source, length, align_corners)
    np.testing.assert_allclose(actual, torch_matrix(source, length, align_corners), atol=2e-5)


@pytest.mark.parametrize("factors", [(2, 2), (3, 5), (4, 8), (16, 1)])
def test_resize_by_gathers_equals_jax_image_resize(factors):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    size = (5 * factors[0], 4 * factors[1])
    weights = jax.random.normal(jax.random.key(1), (2, *size, 3))

    def value_and_gradient(resize):
        return once(jax.value_and_grad(lambda x: jnp.vdot(weights, resize(x))), x)

    ours = value_and_gradient(lambda x: layers.resize(x, size))
    theirs = value_and_gradient(lambda x: jax.image.resize(x, (2, *size, 3), "linear", antialias=False))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=15)
@given(source=st.integers(1, 12), length=st.integers(1, 40), align_corners=st.booleans())
def test_resize_gradient_is_the_transpose(source, length, align_corners):
    matrix = torch_matrix(source, length, align_corners)
    weights = np.random.default_rng(0).normal(size=length).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.vdot(weights, layers.resize(x, (length, 1), align_corners)[0, :, 0, 0]))
    actual = once(gradient, jnp.zeros((1, source, 1, 1)))[0, :, 0, 0]
    np.testing.assert_allclose(actual, matrix.T @ weights, atol=1e-4)


def test_resize_keeps_the_dtype():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    for size in ((8, 8), (7, 9), (2, 3), (4, 4)):
        for align_corners in (False, True):
            assert layers.resize(x, size, align_corners).dtype == jnp.bfloat16


# --- what upsampling does to the variance (iid field: closed forms)


def closed_form(factor, source):
    """Var[upsampled] / Var[source] of an iid field, an axis: R_N(s)."""
    ratio = 2 / 3 - 1 / (6 * factor**2) if factor % 2 == 0 else 2 / 3 + 1 / (3 * factor**2)
    return ratio + (1 - ratio) / source


@pytest.mark.parametrize("source", [2, 5, 16, 128])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8, 16])
def test_variance_of_upsampled_noise(source, factor):
    matrix = interpolation_matrix(source, factor * source)
    # an output pixel of an iid field of variance 1 has the variance of the sum of its squared weights
    np.testing.assert_allclose((matrix**2).sum(1).mean(), closed_form(factor, source), rtol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(0), factor, rtol=1e-6)  # every source pixel counts alike: the mean is kept


def test_variance_of_upsampled_noise_in_two_dimensions():
    """The authors' own measurement: post-ReLU moments, N = 128; x2 loses most, and it is not monotone in the factor."""
    noise = 0.3989 + np.sqrt(0.3408) * jax.random.normal(jax.random.key(0), (4, 128, 128, 16))
    for factor, expected in ((2, 0.394296), (4, 0.434196), (8, 0.444472)):
        upsampled = layers.resize(noise, (128 * factor, 128 * factor))
        assert abs(closed_form(factor, 128) ** 2 - expected) < 1e-6
        assert abs(float(upsampled.var() / noise.var()) / expected - 1) < 0.01
        assert abs(float(upsampled.mean() - noise.mean())) < 1e-5


@settings(max_examples=30)
@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=24),
    columns=st.integers(1, 4),
    factors=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_integer_upsampling_never_increases_the_variance(values, columns, factors):
    rows = -(-len(values) // columns)
    x = np.resize(np.array(values, np.float32), (1, rows, columns, 1))
    upsampled = once(lambda x: layers.resize(x, (rows * factors[0], columns * factors[1])), x)
    upsampled = np.asarray(upsampled, np.float64)
    assert upsampled.var() <= x.astype(np.float64).var() * (1 + 1e-5) + 1e-6
    assert abs(upsampled.mean() - x.astype(np.float64).mean()) <= 1e-4


def test_align_corners_can_increase_the_variance():
    """The theorem is one of align_corners=False: there column sums are equal."""
    assert interpolation_matrix(16, 128, align_corners=True).sum(0).std() > 0.1


def test_broadcast_keeps_the_variance():
    x = jax.random.normal(jax.random.key(0), (16, 1, 1, 32))
    assert float(layers.resize(x, (7, 9)).var()) == pytest.approx(float(x.var()), rel=1e-5)
