"""Normalisation over a batch that is split over devices, with one exchange between them forward and one backward.

All sums are independent of each other, so that XLA combines their all-reduces into one. They go over images and pixels
at once, which a TPU's compiler computes along with the convolution before; sums of each image alone, stacked, made it
read the map again (twice the traffic). Only `se_jax.models.layers` calls this; CPUs have a form of their own.
"""

import functools
import math
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax


def moments(x):
    """Mean and biased variance of [b, h, w, c] over all but the channels, float32 [c], by independent sums.

    The variance would drown in the rounding of E[x^2] - E[x]^2 where a channel's mean is far from zero, and no shift is
    known to every device without another exchange (running means start at zero). So every image has its own: the value
    of its middle pixel, rounded to so few bits that the shifts' sum and the sum of their squares are exact.
    """
    images, height, width, _ = x.shape
    # two shifts of `bits` in neighbouring binades have squares of 2 * (bits + 1) bits, and sums carry log2(images) more
    bits = max((24 - math.ceil(math.log2(images))) // 2 - 1, 2)
    rounded = functools.partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=bits - 1)
    shift = rounded(x[:, height // 2, width // 2].astype(jnp.float32))
    apart = x.astype(jnp.float32) - shift[:, None, None]
    first, second = channel_mean(apart), channel_mean(jnp.square(apart))
    products = channel_mean(shift[:, None, None] * apart)
    shifts, squares = jnp.sum(shift, axis=0), jnp.sum(jnp.square(shift), axis=0)
    # from here on around one shift for all, as near to the mean as `bits` allow
    middle = rounded(shifts / images)
    shifts_apart = shifts - images * middle
    squares_apart = (squares - middle * shifts) - middle * shifts_apart
    mean = shifts_apart / images + first
    square = squares_apart / images + 2 * (products - middle * first) + second
    return middle + mean, jnp.maximum(square - jnp.square(mean), 0)


def channel_mean(x):
    """Mean over all but the last axis: [b, h, w, c] -> [c]."""
    return jnp.mean(x, axis=(0, 1, 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalize_batch(x, scale, bias, epsilon: float, moments, channel_mean):
    """[b, h, w, c] of any float -> (float32 y, mean, biased variance); the last two have no gradient.

    moments, channel_mean: those of this module, or of `se_jax.models.cpu`.
    """
    mean, var = moments(x)
    return (x.astype(jnp.float32) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def _forward(x, scale, bias, epsilon, moments, channel_mean):
    y, mean, var = cast(tuple, normalize_batch(x, scale, bias, epsilon, moments, channel_mean))
    return (y, mean, var), (x, scale, mean, lax.rsqrt(var + epsilon))


def _backward(epsilon, moments, channel_mean, saved, gradients):
    x, scale, mean, inverse = saved
    dy, count = gradients[0], x.size // x.shape[-1]
    normal = (x.astype(jnp.float32) - mean) * inverse
    dbias, dscale = channel_mean(dy), channel_mean(dy * normal)
    dx = (dy - dbias - normal * dscale) * (inverse * scale)
    return dx.astype(x.dtype), dscale * count, dbias * count


normalize_batch.defvjp(_forward, _backward)
