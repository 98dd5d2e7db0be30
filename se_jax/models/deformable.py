"""Deformable multi-scale attention: each token looks at a few points of every level, at places that it chooses.

Source: Zhu et al., Deformable DETR (arXiv 2010.04159), as Mask2Former's pixel decoder uses it (facebookresearch/
Mask2Former, mask2former/modeling/pixel_decoder). No custom operator: bilinear samples are gathers. Levels are flattened
row by row and concatenated, `sizes` are their (height, width) in that order.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from se_jax.models.attention import FeedForward, LayerNorm, Linear
from se_jax.models.layers import ConvBlock

EPSILON = 1e-5  # of every LayerNorm
TEMPERATURE = 10000.0

Sizes = tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=32)
def sine_position(size: tuple[int, int], channels: int) -> np.ndarray:
    """Position encoding of a map: float32 [h, w, channels], the first half of the row, the second of the column.

    A row's number counts from 1 and is scaled to 2 pi for the last one; sine and cosine alternate.
    """
    half = channels // 2
    frequency = TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    axes = []
    for length in size:
        angle = (np.arange(1, length + 1) / (length + 1e-6) * 2 * np.pi)[:, None] / frequency
        axes.append(np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle)))
    rows = np.broadcast_to(axes[0][:, None], (*size, half))
    columns = np.broadcast_to(axes[1][None], (*size, half))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)


def reference_points(sizes: Sizes) -> np.ndarray:
    """The centre (x, y) of every token's pixel, in units of its own map: float32 [tokens, 2]."""
    points = []
    for height, width in sizes:
        y, x = np.divmod(np.arange(height * width), width)
        points.append(np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1))
    return np.concatenate(points).astype(np.float32)


def offset_bias(heads: int, levels: int, points: int) -> np.ndarray:
    """Where a new network looks, in pixels (x, y) from the token: [heads, levels, points, 2], a direction a head."""
    angle = 2 * np.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(axis=-1, keepdims=True)
    steps = direction[:, None, None] * np.arange(1, points + 1)[:, None]
    return np.broadcast_to(steps, (heads, levels, points, 2)).astype(np.float32)


def sample_levels(value, locations, weights, sizes: Sizes):
    """Weighted sum of bilinear samples of several levels; what lies outside a map counts as zero.

    One corner of one sample after the other, in a scan that keeps nothing for the backward pass: all corners at once
    would be 48 times the size of `value`.

    Args:
      value: [b, tokens of all levels, heads, d].
      locations: [b, queries, heads, levels, points, 2], (x, y) in units of the map: pixel centres are (i + 0.5) / side.
      weights: [b, queries, heads, levels, points].

    Returns:
      [b, queries, heads * d] in the dtype of `value`.
    """
    tokens, share = _corners(locations, weights, sizes)
    batch, _, heads, width = value.shape
    rows = value.reshape(batch, -1, width)  # token * heads + head
    of_head = jnp.arange(heads)

    @jax.checkpoint
    def add(total, corner):
        at, weight = corner
        picked = jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(rows, at * heads + of_head)
        return total + picked * weight[..., None].astype(value.dtype), None

    total = jnp.zeros((*tokens.shape[1:], width), value.dtype)
    total, _ = lax.scan(add, total, (tokens, share))
    return total.reshape(batch, -1, heads * width)


def _corners(locations, weights, sizes: Sizes):
    """The pixels that samples are made of: (token, weight), each [levels * points * 4, b, queries, heads]."""
    height, width = np.array(sizes, np.int32).T[:, :, None]
    start = np.cumsum([0, *(h * w for h, w in sizes[:-1])], dtype=np.int32)[:, None]
    x = locations[..., 0] * width.astype(np.float32) - 0.5
    y = locations[..., 1] * height.astype(np.float32) - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    tokens, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row)) * weights
            at = start + row.astype(jnp.int32) * width + column.astype(jnp.int32)
            tokens.append(jnp.where(inside, at, 0))
            shares.append(jnp.where(inside, share, 0))

    def first(parts):
        stacked = jnp.moveaxis(jnp.stack(parts), (-2, -1), (0, 1))  # [levels, points, corners, b, queries, heads]
        return stacked.reshape(-1, *stacked.shape[3:])

    return first(tokens), first(shares)


class DeformableAttention(nn.Module):
    """Tokens [b, n, c] look at `points` points of each level of `value` [b, n, c]: [b, n, c].

    Attributes:
      heads: divides the channels.
    """

    heads: int
    points: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query, value, sizes: Sizes):
        batch, count, channels = query.shape
        levels = len(sizes)
        bias = offset_bias(self.heads, levels, self.points)
        offsets = Linear(
            bias.size,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape: jnp.asarray(bias.reshape(shape)),
            dtype=self.dtype,
            name="sampling_offsets",
        )(query)
        weights = Linear(
            self.heads * levels * self.points,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="attention_weights",
        )(query)
        xavier = nn.initializers.xavier_uniform()
        value = Linear(channels, kernel_init=xavier, dtype=self.dtype, name="value_proj")(value)
        weights = jax.nn.softmax(weights.reshape(batch, count, self.heads, -1).astype(jnp.float32))
        scale = 1 / np.array([size[::-1] for size in sizes], np.float32)[:, None]
        offsets = offsets.reshape(batch, count, *bias.shape).astype(jnp.float32)
        locations = reference_points(sizes)[:, None, None, None] + offsets * scale
        y = sample_levels(
            value.reshape(batch, count, self.heads, -1),
            locations,
            weights.reshape(*locations.shape[:-1]),
            sizes,
        )
        return Linear(channels, kernel_init=xavier, dtype=self.dtype, name="output_proj")(y)


class DeformableLayer(nn.Module):
    """Attention and a feed-forward network, each added and normalised: tokens [b, n, c] -> [b, n, c].

    Positions are added to the queries, not to the values.
    """

    heads: int
    points: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, positions, sizes: Sizes):
        attention = DeformableAttention(self.heads, self.points, dtype=self.dtype, name="self_attn")
        x = LayerNorm(EPSILON, dtype=self.dtype, name="norms_0")(x + attention(x + positions, x, sizes))
        y = FeedForward(self.hidden, dtype=self.dtype, name="ffn")(x)
        return LayerNorm(EPSILON, dtype=self.dtype, name="norms_1")(x + y)


class DeformableEncoder(nn.Module):
    """Maps, finest first, attend to each other: [b, h_i, w_i, c_i] -> maps of `channels` each, coarsest first.

    Attributes:
      channels: a multiple of 32, of 4, and of the heads.
      layers, heads, points: of the attention. hidden: channels of the feed-forward networks.
    """

    channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    hidden: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps):
        levels = self.param("level_encoding", nn.initializers.normal(1.0), (len(maps), self.channels))
        tokens, positions, sizes = [], [], []
        for index, x in enumerate(reversed(maps)):
            x = ConvBlock(
                self.channels,
                1,
                norm="group",
                activation=None,
                use_bias=True,
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=f"input_convs_{index}",
            )(x)
            size = (x.shape[1], x.shape[2])
            sizes.append(size)
            tokens.append(x.reshape(len(x), -1, self.channels))
            positions.append(sine_position(size, self.channels).reshape(-1, self.channels) + levels[index])
        x, position, sizes = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions), tuple(sizes)
        x = self._layers(x, position.astype(self.dtype), sizes)
        ends = np.cumsum([height * width for height, width in sizes])[:-1]
        parts = jnp.split(x, ends, axis=1)
        return [part.reshape(len(x), *size, self.channels) for part, size in zip(parts, sizes, strict=True)]

    def _layers(self, x, positions, sizes: Sizes):
        """All layers, one after the other.

        A loop, compiled once for all of them, that keeps only their inputs for the backward pass: a layer's values are
        25 times as many. (Outside of a loop, XLA would not compute them again on a CPU, but find them to be the same.)
        """
        names = [f"layers_{index}" for index in range(self.layers)]
        options = (self.heads, self.points, self.hidden, self.dtype)
        if self.is_initializing():
            for name in names:
                x = DeformableLayer(*options, name=name)(x, positions, sizes)
            return x
        layer = DeformableLayer(*options, parent=None)

        @jax.checkpoint
        def step(x, params):
            return layer.apply({"params": params}, x, positions, sizes), None

        params = [self.get_variable("params", name) for name in names]
        return lax.scan(step, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))[0] if params else x
