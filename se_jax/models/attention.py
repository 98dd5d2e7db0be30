"""Layers of transformer encoders with PyTorch's numbers: linear, LayerNorm, exact GELU, drop path, attention, windows.

Maps are [batch, height, width, channels]. Sources: PyTorch's operators, as mmsegmentation 1.2.2 and mmcv 2.1.0 call
them.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from se_jax.models.frozen import is_frozen
from se_jax.models.initializers import torch_bias
from se_jax.models.layers import Conv, add_bias, linear, normalize_channels

# mmcv cuts at absolute -2 and 2, a hundred standard deviations away: in effect a plain normal
linear_normal = nn.initializers.normal(0.02)
# torch's Xavier uniform of the packed projection [3c, c]: fans are summed over the packed shape
packed_xavier = nn.initializers.xavier_uniform()

# A depthwise kernel's fan_in is its fan_out divided by the groups, which the reference's transformers count.
depthwise_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Linear(nn.Module):
    """Linear map of the channels: [..., c] -> [..., features]; torch's Linear with its weight transposed."""

    features: int
    use_bias: bool = True
    kernel_init: Callable = linear_normal
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = linear(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y = add_bias(y, self.param("bias", self.bias_init, (self.features,)).astype(self.dtype))
        return y


class LayerNorm(nn.Module):
    """Normalises each pixel over its channels, in float32, with torch's biased variance: [..., c] -> [..., c]."""

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return normalize_channels(x.astype(jnp.float32), scale, bias, self.epsilon).astype(self.dtype)


def gelu(x):
    """The exact GELU, by the error function; JAX's default is its tanh approximation.

    In float32 as torch has it; JAX's own is by erfc, which a CPU computes two and a half times slower.
    """
    if x.dtype != jnp.float32:
        return nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drops a residual branch, one draw a sample.

    A branch that stays is divided by the probability of staying. Acts in training, where the caller gave a 'dropout'
    key.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        active = train and self.rate > 0 and self.has_rng("dropout") and not is_frozen(self)
        return nn.Dropout(self.rate, broadcast_dims=tuple(range(1, x.ndim)))(x, deterministic=not active)


def drop_path_rates(rate: float, depths) -> list[list[float]]:
    """Each block's drop path rate, by stage: from 0 at the first to `rate` at the last of all, in equal steps."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [[rate * (start + i) / last for i in range(depth)] for start, depth in zip(starts, depths, strict=True)]


class Mlp(nn.Module):
    """Linear to `hidden` channels, exact GELU, linear back: [..., c] -> [..., c]."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        y = gelu(Linear(self.hidden, dtype=self.dtype, name="fc1")(x))
        return Linear(x.shape[-1], dtype=self.dtype, name="fc2")(y)


class FeedForward(nn.Module):
    """Linear to `hidden` channels, ReLU, linear back, as torch's transformers have it: [..., c] -> [..., c]."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels, xavier = x.shape[-1], nn.initializers.xavier_uniform()

        def layer(name: str, features: int, x):
            bias = torch_bias(x.shape[-1])
            return Linear(features, kernel_init=xavier, bias_init=bias, dtype=self.dtype, name=name)(x)

        return layer("fc2", channels, nn.relu(layer("fc1", self.hidden, x)))


def attend(q, k, v, bias=None):
    """Scaled dot-product attention; the softmax is float32.

    Args:
      q: [n, tq, heads, d]. k, v: [n, tk, heads, d].
      bias: added to the scaled products (relative positions, masks): float32, broadcastable to [n, heads, tq, tk].

    Returns:
      [n, tq, heads, d] in the dtype of `v`.
    """
    logits = jnp.einsum("nqhd,nkhd->nhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v)


class SelfAttention(nn.Module):
    """Global attention with spatially reduced keys and values: [b, h, w, c] -> [b, h, w, c].

    Of PVT (https://arxiv.org/abs/2102.12122), as MiT and Twins use it. Keys and values come from the map reduced by a
    convolution whose kernel and stride are `reduction` (a remainder at the bottom and right is dropped) and a
    LayerNorm.
    """

    heads: int
    reduction: int = 1
    epsilon: float = 1e-5
    reduction_init: Callable = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        reduced = x
        if self.reduction > 1:
            conv = Conv(
                channels,
                self.reduction,
                strides=self.reduction,
                padding=0,
                use_bias=True,
                kernel_init=self.reduction_init,
                dtype=self.dtype,
                name="sr",
            )
            reduced = LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(conv(x))
        kernel, bias = PackedProjection(name="qkv")(channels)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        q = add_bias(linear(x, kernel[:, :channels]), bias[:channels])
        kv = add_bias(linear(reduced, kernel[:, channels:]), bias[channels:])
        q = q.reshape(batch, height * width, self.heads, -1)
        k, v = (part.reshape(batch, -1, self.heads, channels // self.heads) for part in jnp.split(kv, 2, axis=-1))
        y = attend(q, k, v).reshape(batch, height, width, channels)
        return Linear(channels, dtype=self.dtype, name="proj")(y)


def require_reducible(model, x, reductions):
    """Refuses images with a map, of stride 4, 8, 16 or 32, smaller than its reduction: no keys would remain.

    Raises:
      ValueError: with the least size that would do.
    """
    least = max(4 * 2**stage * (reduction - 1) + 1 for stage, reduction in enumerate(reductions))
    if min(x.shape[1:3]) < least:
        raise ValueError(
            f"{type(model).__name__} got an image of {x.shape[1]} x {x.shape[2]}; expected at least {least} x {least}, "
            f"so that attention can reduce its maps by {reductions}."
        )


class PackedProjection(nn.Module):
    """Parameters of torch's packed projection of queries, keys and values: kernel [c, 3c] and bias [3c]."""

    kernel_init: Callable = packed_xavier

    @nn.compact
    def __call__(self, channels: int):
        kernel = self.param("kernel", self.kernel_init, (channels, 3 * channels))
        return kernel, self.param("bias", nn.initializers.zeros, (3 * channels,))


def pad_to_multiple(x, multiple: tuple[int, int]):
    """Zeros at the bottom and right until height and width are multiples of `multiple`."""
    rows, columns = (-length % m for length, m in zip(x.shape[1:3], multiple, strict=True))
    return x if rows == columns == 0 else jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))


def to_windows(x, window: int | tuple[int, int]):
    """Cuts [b, h, w, c] into windows, one after the other, row by row: [b * h/rows * w/columns, rows * columns, c].

    window: its (rows, columns), or one number for both; the map's sides are multiples of it.
    """
    batch, height, width, channels = x.shape
    rows, columns = _sides(window)
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, channels)


def from_windows(windows, window: int | tuple[int, int], size: tuple[int, int]):
    """The inverse of `to_windows`: [b * nh * nw, rows * columns, c] -> [b, *size, c]."""
    height, width = size
    rows, columns = _sides(window)
    channels = windows.shape[-1]
    x = windows.reshape(-1, height // rows, width // columns, rows, columns, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def _sides(window) -> tuple[int, int]:
    return (window, window) if isinstance(window, int) else window
