"""Swin: its windows against the definition, and what the reference's outputs do not show."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.models.attention import DropPath
from se_jax.models.encoders import Swin
from se_jax.models.encoders.swin import (
    PatchProjection,
    SwinBlock,
    WindowAttention,
    relative_position_index,
    shift_mask,
)

TINY = {"width": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window": 3}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_images_may_be_smaller_than_the_stride():
    model, size = Swin(**TINY), (5, 31)
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)))[0])
    expected = [(1, *(-(-n // s) for n in size), c) for s, c in zip((4, 8, 16, 32), model.channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected


@pytest.mark.parametrize("window", [1, 3, 12])
def test_relative_positions_are_numbered_row_by_row(window):
    index = relative_position_index(window)
    side = 2 * window - 1
    for query in range(window**2):
        for key in range(window**2):
            down, across = (a - b + window - 1 for a, b in zip(divmod(query, window), divmod(key, window), strict=True))
            assert index[query, key] == down * side + across


@pytest.mark.parametrize(("window", "grid"), [(3, (1, 1)), (4, (1, 3)), (7, (2, 3)), (12, (2, 1)), (1, (2, 2))])
def test_shift_mask_is_that_of_the_regions(window, grid):
    """The reference numbers 3 x 3 regions of the padded map and compares the numbers."""
    shift = window // 2
    regions = np.zeros([length * window for length in grid], int)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[rows, columns] = 3 * i + j
    windows = regions.reshape(grid[0], window, grid[1], window).swapaxes(1, 2).reshape(-1, window**2)
    expected = np.where(windows[:, :, None] == windows[:, None, :], 0, -100)
    np.testing.assert_array_equal(shift_mask(window, shift, grid)[:, 0], expected if shift else 0)


def test_padding_takes_part_as_the_projection_bias_and_is_never_masked():
    """Attention written out over the tokens of one window, of which only the first is not padding."""
    attention = WindowAttention(heads=1, window=2, shift=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 1, 4)).astype(np.float32)
    variables = jax.eval_shape(attention.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), variables)
    p = variables["params"]
    token, padding = x[0, 0, 0] @ p["qkv"]["kernel"] + p["qkv"]["bias"], p["qkv"]["bias"]
    # offsets of keys to query (0, 0): (0, 0), (0, -1), (-1, 0), (-1, -1), in a table of 3 x 3
    logits = np.array([token[:4] @ tokens[4:8] for tokens in (token, padding, padding, padding)]) / 2
    weights = np.exp(logits + p["bias_table"][[4, 3, 1, 0], 0])
    weights /= weights.sum()
    mixed = weights[0] * token[8:] + weights[1:].sum() * padding[8:]
    expected = mixed @ p["proj"]["kernel"] + p["proj"]["bias"]
    np.testing.assert_allclose(jax.jit(attention.apply)(variables, x)[0, 0, 0], expected, rtol=1e-5, atol=1e-5)


def test_every_other_block_shifts_also_on_a_map_of_one_window():
    calls = []

    def record(next_call, args, kwargs, context):
        if isinstance(context.module, WindowAttention) and context.method_name == "__call__":
            calls.append((args[0].shape[1], context.module.shift))
        return next_call(*args, **kwargs)

    model = Swin(**TINY | {"window": 7, "depths": (3, 2, 1, 1)})
    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    assert calls == [(7, 0), (7, 3), (7, 0), (4, 0), (4, 3), (2, 0), (1, 0)]


def test_drop_path_rises_over_all_blocks_and_acts_on_both_branches():
    rates = []

    def record(next_call, args, kwargs, context):
        if isinstance(context.module, DropPath) and context.method_name == "__call__":
            rates.append(context.module.rate)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(Swin(**TINY, drop_path=0.5))
    np.testing.assert_allclose(rates, np.repeat(np.linspace(0, 0.5, 5), 2))
    assert Swin("base").sizes.drop_path == 0.3


def test_new_weights_are_drawn_as_the_reference_draws_them():
    projection = jax.jit(PatchProjection(96).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    limit = 48**-0.5  # torch's default of a convolution with 48 inputs; its bias too
    for leaf in projection.values():
        assert 0.9 * limit < jnp.max(jnp.abs(leaf)) <= limit
        np.testing.assert_allclose(jnp.std(leaf), limit / 3**0.5, rtol=0.2)
    block = SwinBlock(heads=2, window=2, shift=0, drop_path=0.0)
    attention = jax.jit(block.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 96)))["params"]["attn"]
    np.testing.assert_allclose(jnp.std(attention["qkv"]["kernel"]), 0.02, rtol=0.02)
    assert not jnp.any(attention["qkv"]["bias"])
    assert not jnp.any(attention["bias_table"])
