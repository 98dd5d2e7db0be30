"""Varying-window attention: which pixels a context has, its memory and cost, what is shared, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import counts
from se_jax.models import varying_window
from se_jax.models.attention import attend, from_windows, to_windows
from se_jax.models.varying_window import VaryingWindowAttention, context_table, contexts, copy_shift
from tests import tiny

RATIOS = (2, 4, 8)
# sides of a window; odd ones occur where images are tested at multiples of 64
SIDES = (8, 10, 16, 2, 3, 11)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("side", SIDES)
def test_a_context_is_the_span_of_full_length_that_lies_inside_the_map(side, ratio):
    length = 8 * side
    table = copy_shift(length, ratio)
    assert table.shape == (8, side, ratio)
    for window, pixels in enumerate(table.reshape(8, -1)):
        first = window * side - -(-(ratio - 1) * side // 2)  # in the middle, where that is inside
        first = min(max(first, 0), length - ratio * side)
        span = np.arange(first, first + ratio * side)
        np.testing.assert_array_equal(np.sort(pixels), span)
        np.testing.assert_array_equal(pixels, np.roll(span, -list(span).index(pixels[0])), err_msg="cyclic order")


@pytest.mark.parametrize("side", SIDES)
def test_all_windows_share_a_context_that_is_the_whole_map_in_aligned_tokens(side):
    shared = {ratio for ratio in RATIOS if len(context_table(8 * side, ratio)) == 1}
    assert shared == ({8} if side % 8 == 0 else set())


def test_channels_of_a_token_are_its_pixels_row_by_row():
    x = jnp.arange(16 * 32 * 2).reshape(1, 16, 32, 2)
    tokens = contexts(x, 4)  # windows of 2 x 4, contexts of 8 x 16
    assert tokens.shape == (64, 8, 32)
    rows, columns = copy_shift(16, 4)[5], copy_shift(32, 4)[2]
    expected = [x[0, row, column] for row in rows[1] for column in columns[3]]
    np.testing.assert_array_equal(tokens[5 * 8 + 2, 1 * 4 + 3], jnp.concatenate(expected))


@pytest.mark.parametrize("ratio", RATIOS)
def test_all_contexts_together_are_as_many_numbers_as_the_map(ratio):
    """By the compiled program's own count: the contexts N C floats, and not much more while they are made."""
    channels, size = 64, 32
    reduced = jax.ShapeDtypeStruct((1, size, size, channels // ratio**2), jnp.float32)
    memory = jax.jit(lambda x: contexts(x, ratio)).lower(reduced).compile().memory_analysis()
    floats = size * size * channels
    assert memory.output_size_in_bytes == 4 * floats
    assert memory.temp_size_in_bytes <= 4 * 2.1 * floats, "not ratio**2 times as much"


@pytest.mark.parametrize("attention", ["nonlocal", "multihead"])
def test_cost_is_that_of_local_windows_and_one_product_more_whatever_the_ratio(attention):
    channels, side = 512, 10
    pixels = (8 * side) ** 2
    local = 4 * pixels * channels**2 + 2 * pixels * side**2 * channels
    x = jax.ShapeDtypeStruct((1, 8 * side, 8 * side, channels), jnp.float32)
    found = {r: counts.multiply_adds(VaryingWindowAttention(r, 8, attention), x) for r in RATIOS}
    assert found == dict.fromkeys(RATIOS, local + pixels * channels**2)
    # keys and values of a context that all 64 windows share
    pixels = 64**2
    x = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    expected = (3 + 2 / 64) * pixels * channels**2 + 2 * pixels * 64 * channels
    assert counts.multiply_adds(VaryingWindowAttention(8, 8, attention), x) == expected


@pytest.mark.parametrize("attention", ["nonlocal", "multihead"])
def test_sharing_keys_and_values_changes_nothing(attention, monkeypatch):
    x = draw(2, 64, 8 * 3, 64)  # shared along the rows, not along the columns
    model = VaryingWindowAttention(8, 4, attention)
    variables = tiny.fill(jax.eval_shape(model.init, jax.random.key(0), x))
    assert contexts(x[..., :1], 8).shape == (2 * 1 * 8, 8 * 3, 64)
    shared = jax.jit(model.apply)(variables, x)
    monkeypatch.setattr(varying_window, "context_table", copy_shift)
    assert contexts(x[..., :1], 8).shape == (2 * 8 * 8, 8 * 3, 64)
    np.testing.assert_allclose(jax.jit(lambda v, x: model.apply(v, x))(variables, x), shared, atol=2e-5)


def test_ratio_1_without_embedding_is_local_window_attention():
    x = jnp.abs(draw(1, 16, 24, 6))
    model = VaryingWindowAttention(1, 2, "multihead")
    variables = tiny.fill(jax.eval_shape(model.init, jax.random.key(0), x))
    variables["params"]["ds"]["conv"]["kernel"] = jnp.eye(6)[None, None]
    norm = {"scale": jnp.full(6, np.sqrt(1 + 1e-5), jnp.float32), "bias": jnp.zeros(6)}
    variables["params"]["ds"]["bn"] = norm
    variables["batch_stats"]["ds"]["bn"] = {"mean": jnp.zeros(6), "var": jnp.ones(6)}
    weights = variables["params"]
    q, k, v = (
        to_windows(part, (2, 3)).reshape(64, 6, 2, 3)
        for part in jnp.split(x @ weights["in_proj"]["kernel"] + weights["in_proj"]["bias"], 3, axis=-1)
    )
    local = from_windows(attend(q, k, v).reshape(64, 6, 6), (2, 3), (16, 24))
    expected = local @ weights["out_proj"]["kernel"] + weights["out_proj"]["bias"]
    np.testing.assert_allclose(model.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_gathers_gradient_is_the_scatter(ratio):
    x, cotangent = draw(2, 24, 16, 3), draw(64 * 2, 6, 3 * ratio**2, seed=1)

    def plain(x):
        rows, columns = (copy_shift(length, ratio).ravel() for length in x.shape[1:3])
        x = x[:, rows][:, :, columns].reshape(2, 8, 3, ratio, 8, 2, ratio, 3)
        return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(cotangent.shape)

    y, pull = jax.vjp(lambda x: contexts(x, ratio), x)
    expected, pull_plain = jax.vjp(plain, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(pull(cotangent)[0], pull_plain(cotangent)[0], atol=1e-5)


def test_a_pixel_reaches_the_windows_in_whose_context_it_lies():
    """Changes one pixel: the outputs of those windows change, and no others."""
    x = draw(1, 32, 32, 16)
    model = VaryingWindowAttention(2, 1)
    variables = tiny.fill(jax.eval_shape(model.init, jax.random.key(0), x))
    apply = jax.jit(model.apply)
    moved = jnp.abs(apply(variables, x.at[0, 9, 13].add(5.0)) - apply(variables, x)).max(-1)[0]
    windows = moved.reshape(8, 4, 8, 4).max((1, 3)) > 1e-5
    # the 2 x 2 embedding reads the pixel at two places of each axis; the query's own window sees it anyway
    reached = [[bool({at - 1, at} & set(pixels)) for pixels in copy_shift(32, 2).reshape(8, -1)] for at in (9, 13)]
    np.testing.assert_array_equal(windows, np.outer(*reached))
