"""Layers' forms for XLA's GPU backend, whose own gradients are slow there; equal to them in number.

Only `se_jax.models.layers` calls these, and chooses.
"""

import functools

import jax
import jax.numpy as jnp

from se_jax.models.convolution import convolution


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dilated_conv(x, kernel, padding: int, dilation: int, groups: int):
    """XLA's convolution of stride 1, but the gradient of its kernel is that of one without dilation.

    XLA hands the gradient of a dilated kernel to cuDNN as a convolution with a window as large as the map, for which
    there are slow programs only. The pixels of rows and columns that are equal modulo the dilation are maps of their
    own, over which the same kernel has no gaps. `padding` is a multiple of the dilation.
    """
    return convolution(x, kernel, 1, padding, dilation, groups)


def _forward(x, kernel, padding, dilation, groups):
    return dilated_conv(x, kernel, padding, dilation, groups), (x, kernel)


def _backward(padding, dilation, groups, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: convolution(x, kernel, 1, padding, dilation, groups), x)(dy)
    outputs = [-(-length // dilation) for length in dy.shape[1:3]]
    inputs = [out + taps - 1 - 2 * padding // dilation for out, taps in zip(outputs, kernel.shape[:2], strict=True)]
    x, dy = _modulo(x, dilation, inputs), _modulo(dy, dilation, outputs)
    transpose = jax.linear_transpose(lambda kernel: convolution(x, kernel, 1, padding // dilation, 1, groups), kernel)
    return dx, *transpose(dy)


dilated_conv.defvjp(_forward, _backward)


def _modulo(x, dilation: int, size: list[int]):
    """[b, h, w, c] -> [b * dilation^2, *size, c]: pixels of equal place modulo the dilation, zeros behind them."""
    behind = [(0, dilation * new - old) for new, old in zip(size, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *behind, (0, 0)))
    x = x.reshape(x.shape[0], size[0], dilation, size[1], dilation, x.shape[-1])
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, *size, x.shape[-1])
