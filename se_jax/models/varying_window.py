"""Varying-window attention: windows of one size look at contexts of several, at the cost of looking at themselves.

Source: Yan et al., ICLR 2024 (arXiv 2404.16573), as the authors' own code computes it (github.com/yan-hao-tian/VW).

A map is cut into 8 x 8 windows, whatever its size. The context of a window is `ratio` times as long on both axes. Its
channels are reduced first, on the whole map (`embed`, the densely overlapping patch embedding): C to C / ratio**2, so
that all contexts together are as many numbers as the map; ratio x ratio pixels then make one token of C channels, and
a window has as many tokens to look at as it has pixels.

At the border a context is not filled with zeros: the authors pad the map with strips copied from its inside
(copy-shift padding). The pixels a window then sees are those of the span of full length that lies inside the map,
moved in from the border, in a cyclic order. Here no padded map is made; a constant table says where each pixel of a
context is found.

Where the tables of all windows of an axis hold the same tokens, as with a context as long as the map, keys and values
are computed once for all of them: attention knows no order of tokens.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax.models.attention import Linear, PackedProjection, attend, from_windows, to_windows
from se_jax.models.initializers import torch_bias, torch_uniform
from se_jax.models.layers import Conv, ConvBlock, add_bias, linear

WINDOWS = 8  # on each axis


def copy_shift(length: int, ratio: int) -> np.ndarray:
    """Which pixels of an axis of `length` the context of each window has, where they lie in the padded map.

    Returns:
      int [8, length / 8, ratio]: the pixels that share a token lie in the last axis.
    """
    side = length // WINDOWS
    near, far = (ratio + 1) * side // 2, ratio * side
    padded = np.r_[near:far, :length, length - far : length - near]
    starts = side * np.arange(WINDOWS)[:, None]
    return padded[starts + np.arange(ratio * side)].reshape(WINDOWS, side, ratio)


@functools.lru_cache(maxsize=64)
def context_table(length: int, ratio: int) -> np.ndarray:
    """`copy_shift`, or where the contexts of all windows are the same tokens, the first one alone."""
    table = copy_shift(length, ratio)
    different = {frozenset(map(tuple, tokens)) for tokens in table.tolist()}
    return table[:1] if len(different) == 1 else table


@functools.lru_cache(maxsize=64)
def _uses(length: int, ratio: int) -> np.ndarray:
    """Where each pixel of an axis stands in its table, flat: int [length, most]; filled up with the table's size."""
    table = context_table(length, ratio).ravel()
    found = [np.flatnonzero(table == pixel) for pixel in range(length)]
    most = max(map(len, found))
    return np.stack([np.pad(at, (0, most - len(at)), constant_values=table.size) for at in found])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x, axis: int, length: int, ratio: int):
    """The pixels of an axis in the order of its table, flat."""
    return jnp.take(x, context_table(length, ratio).ravel(), axis)


def _gather_backward(axis, length, ratio, _, dy):
    """Gathers as well, where JAX would scatter."""
    return (jnp.take(dy, _uses(length, ratio), axis, mode="fill", fill_value=0).sum(axis + 1),)


_gather.defvjp(lambda x, axis, length, ratio: (_gather(x, axis, length, ratio), None), _gather_backward)


def contexts(x, ratio: int):
    """Every window's context: [b, h, w, c] -> [b * windows, h/8 * w/8 tokens, ratio**2 * c].

    A token's channels are those of its ratio x ratio pixels, row by row. `windows` is that of `grid`.
    """
    batch, height, width, channels = x.shape
    rows, columns = grid(x.shape[1:3], ratio)
    gathered: Any = _gather(_gather(x, 1, height, ratio), 2, width, ratio)
    x = gathered.reshape(batch, rows, height // WINDOWS, ratio, columns, width // WINDOWS, ratio, channels)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch * rows * columns, -1, ratio**2 * channels)


def grid(size: tuple[int, int], ratio: int) -> tuple[int, int]:
    """How many different contexts a map of that size has on each axis, 8 or 1; queries are cut into as many windows."""
    rows, columns = (len(context_table(length, ratio)) for length in size)
    return rows, columns


class VaryingWindowAttention(nn.Module):
    """[b, h, w, c] -> [b, h, w, c]: each window of the map attends to its context.

    Attributes:
      ratio: a context's sides in multiples of its window's: 1 to 8. ratio**2 divides the channels.
      heads: divides the channels.
      attention: 'nonlocal': query, key and value by 1x1 convolutions with a bias, the output by one without and a
        BatchNorm whose scale starts at zero, so that a new network starts without what this adds. 'multihead': torch's
        MultiheadAttention.
      torch_embed: the embedding's convolution is torch's default, with a bias and uniform initial weights.
    """

    ratio: int
    heads: int = 1
    attention: str = "nonlocal"
    torch_embed: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        channels = x.shape[-1]
        context = contexts(self._embed(x, train), self.ratio)
        if self.attention == "multihead":
            kernel, bias = PackedProjection(name="in_proj")(channels)
            kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
            q = add_bias(linear(x, kernel[:, :channels]), bias[:channels])
            kv = add_bias(linear(context, kernel[:, channels:]), bias[channels:])
            y = self._attend(q, *jnp.split(kv, 2, axis=-1))
            return Linear(channels, kernel_init=torch_uniform, dtype=self.dtype, name="out_proj")(y)
        conv = functools.partial(Conv, channels, 1, use_bias=True, dtype=self.dtype)
        q = conv(kernel_init=nn.initializers.normal(0.01), name="theta")(x)
        context = context[:, None]  # a map of one row, as convolutions take them
        y = self._attend(q, conv(name="phi")(context)[:, 0], conv(name="g")(context)[:, 0])
        out = ConvBlock(
            channels, 1, activation=None, scale_init=nn.initializers.zeros, dtype=self.dtype, name="conv_out"
        )
        return out(y, train)

    def _embed(self, x, train: bool):
        """Densely overlapping patch embedding: the ratio x ratio pixels around each, in c / ratio**2 channels."""
        around = ((self.ratio - 1) // 2, self.ratio // 2)
        default: dict[str, Any] = {}
        if self.torch_embed:
            default = {"kernel_init": torch_uniform, "bias_init": torch_bias(self.ratio**2 * x.shape[-1])}
        ds = ConvBlock(
            x.shape[-1] // self.ratio**2,
            self.ratio,
            padding=0,
            use_bias=self.torch_embed,
            dtype=self.dtype,
            name="ds",
            **default,
        )
        return ds(jnp.pad(x, ((0, 0), around, around, (0, 0))), train)

    def _attend(self, q, k, v):
        """Queries [b, h, w, c] by windows to their contexts' keys and values [b * windows, tokens, c]."""
        size = q.shape[1:3]
        window = tuple(length // count for length, count in zip(size, grid(size, self.ratio), strict=True))
        q, k, v = (t.reshape(*t.shape[:2], self.heads, -1) for t in (to_windows(q, window), k, v))
        y = attend(q, k, v)
        return from_windows(y.reshape(*y.shape[:2], -1), window, size)
