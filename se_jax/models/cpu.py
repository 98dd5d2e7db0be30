"""Layers' forms for XLA's CPU backend, whose own operators or gradients are slow here; equal to them in number.

Only `se_jax.models.layers` calls these, and chooses. What each gained over XLA's own form, forward and backward, was
measured on 2 cores with jax 0.10; `python -m experiments.benchmark` measures whole networks.
"""

import functools
import operator
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from se_jax.models.convolution import convolution
from se_jax.models.interpolation import taps

LARGE = 2**14  # numbers of a map; for smaller ones the faster gradients of kernels are not worth compiling


@jax.custom_vjp
def product(x, matrix):
    """[..., c] times [c, out]. The gradient that JAX makes for the matrix transposes an operand first."""
    return x @ matrix


def _product_forward(x, matrix):
    return x @ matrix, (x, matrix)


def _product_backward(saved, dy):
    x, matrix = saved
    dx, barrier = dy @ matrix.T, lax.optimization_barrier
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    if x.size < LARGE:
        return dx, lax.dot_general(x, dy, (((0,), (0,)), ((), ())))
    x, dy = barrier((x, dy))  # nothing of x before dy is there, for what it would keep in memory
    # XLA's product of a transposed operand is slow, so the narrower one is transposed beforehand
    return dx, barrier(barrier(x.T) @ dy) if x.shape[1] < dy.shape[1] else barrier(barrier(dy.T) @ x).T


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(x, kernel, strides: int, padding: int, dilation: int):
    """XLA's convolution, but the gradient of its kernel is one product a tap."""
    return convolution(x, kernel, strides, padding, dilation)


def _conv_forward(x, kernel, strides, padding, dilation):
    return conv(x, kernel, strides, padding, dilation), (x, kernel)


def _conv_backward(strides, padding, dilation, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: convolution(x, kernel, strides, padding, dilation), x)(dy)
    rows, columns = _outputs(x, kernel, strides, padding, dilation)
    x, dy = lax.optimization_barrier((x, dy))  # as in _product_backward
    x = _pad(x, padding)
    size = (x.shape[0], (rows - 1) * strides + 1, (columns - 1) * strides + 1, x.shape[3])
    transposed = lax.optimization_barrier(dy.reshape(-1, dy.shape[3]).T)

    def gradient_of_tap(tap):
        read = lax.dynamic_slice(x, (0, tap[0] * dilation, tap[1] * dilation, 0), size)[:, ::strides, ::strides]
        return lax.optimization_barrier(transposed @ read.reshape(-1, x.shape[3])).T

    places = jnp.array(list(np.ndindex(kernel.shape[:2])))
    return dx, lax.map(gradient_of_tap, places).reshape(kernel.shape)


conv.defvjp(_conv_forward, _conv_backward)


def _taps(length: int, taps: int, strides: int, padding: int, dilation: int):
    """Along an axis, for every tap that meets the map: (tap, slice of the outputs it reaches, of the inputs read)."""
    outputs = (length + 2 * padding - dilation * (taps - 1) - 1) // strides + 1
    for tap in range(taps):
        offset = tap * dilation - padding
        start, stop = max(0, -(offset // strides)), min(outputs, (length - 1 - offset) // strides + 1)
        if start < stop:
            first = start * strides + offset
            yield tap, slice(start, stop), slice(first, first + (stop - start - 1) * strides + 1, strides)


def _outputs(x, kernel, strides: int, padding: int, dilation: int) -> list[int]:
    sizes = zip(x.shape[1:3], kernel.shape[:2], strict=True)
    return [(length + 2 * padding - dilation * (taps - 1) - 1) // strides + 1 for length, taps in sizes]


def conv_by_taps(x, kernel, padding: int, dilation: int):
    """Convolution of stride 1 as one matrix product a tap, each over the pixels where the tap falls inside the map.

    Where the dilation is large against the map, much of the convolution would multiply zeros of the padding.
    """
    y = jnp.zeros((x.shape[0], *_outputs(x, kernel, 1, padding, dilation), kernel.shape[3]), x.dtype)
    for i, rows, source_rows in _taps(x.shape[1], kernel.shape[0], 1, padding, dilation):
        for j, columns, source_columns in _taps(x.shape[2], kernel.shape[1], 1, padding, dilation):
            part = y[:, rows, columns] + product(x[:, source_rows, source_columns], kernel[i, j])
            y = lax.dynamic_update_slice(y, part, (0, rows.start, columns.start, 0))
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(x, kernel, strides: int, padding: int, dilation: int):
    """Depthwise convolution as one sum of shifted maps, which XLA computes in a single pass over the output."""
    rows, columns = _outputs(x, kernel, strides, padding, dilation)
    x = _pad(x, padding)
    parts = []
    for i, j in np.ndindex(kernel.shape[:2]):
        top, left = i * dilation, j * dilation
        across = slice(left, left + (columns - 1) * strides + 1, strides)
        parts.append(x[:, top : top + (rows - 1) * strides + 1 : strides, across] * kernel[i, j, 0])
    return functools.reduce(jnp.add, parts)


def _pad(x, padding: int):
    sides = (padding, padding, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), sides, sides, (0, 0, 0)))


def _depthwise_forward(x, kernel, strides, padding, dilation):
    return depthwise(x, kernel, strides, padding, dilation), (x, kernel)


def _depthwise_backward(strides, padding, dilation, saved, dy):
    x, kernel = saved
    dkernel = jnp.zeros(kernel.shape, jnp.float32)
    for i, rows, source_rows in _taps(x.shape[1], kernel.shape[0], strides, padding, dilation):
        across = list(_taps(x.shape[2], kernel.shape[1], strides, padding, dilation))
        for (j, _, _), value in zip(across, _row_sums(x, dy, rows, source_rows, across), strict=True):
            dkernel = dkernel.at[i, j, 0].set(value)
    return _depthwise_input(x, kernel, strides, padding, dilation, dy), dkernel.astype(kernel.dtype)


def _depthwise_input(x, kernel, strides: int, padding: int, dilation: int, dy):
    """The gradient of the input, by phases: the pixels of the rows and columns that are equal modulo the stride.

    Pixel m of a phase is a sum over taps of the kernel times pixel m + shift of dy.
    """
    counts = [-(-length // strides) for length in x.shape[1:3]]
    shifts = [
        [
            [
                (tap, shift // strides)
                for tap in range(taps)
                if (shift := phase + padding - tap * dilation) % strides == 0
            ]
            for phase in range(strides)
        ]
        for taps in kernel.shape[:2]
    ]
    room = [_room(axis, count, length) for axis, count, length in zip(shifts, counts, dy.shape[1:3], strict=True)]
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *((*sides, 0) for sides in room), (0, 0, 0)))

    def phase(rows, columns):
        total = jnp.zeros((x.shape[0], *counts, x.shape[3]), dy.dtype)
        for i, down in rows:
            for j, across in columns:
                top, left = room[0][0] + down, room[1][0] + across
                total = total + dy[:, top : top + counts[0], left : left + counts[1]] * kernel[i, j, 0]
        return total

    lines = [jnp.stack([phase(rows, columns) for columns in shifts[1]], 3) for rows in shifts[0]]
    dx = jnp.stack(lines, 2).reshape(x.shape[0], *(strides * count for count in counts), x.shape[3])
    return dx[:, : x.shape[1], : x.shape[2]]


def _room(phases, count: int, length: int) -> tuple[int, int]:
    """Zeros that an axis of `length` needs before and behind it, so that `count` pixels can be read at every shift."""
    shifts = [shift for phase in phases for _, shift in phase]
    return max(0, -min(shifts)), max(0, count + max(shifts) - length)


def _row_sums(x, dy, rows: slice, source_rows: slice, across: list) -> list:
    """For one row of taps, the sums over all pixels of dy times what each tap reads: [c] each.

    Row by row into sums that keep their columns: long vectors, no reduction until the end.
    """

    def add_row(k, sums):
        gradient = lax.dynamic_index_in_dim(dy, rows.start + k, 1, keepdims=False)
        source = lax.dynamic_index_in_dim(x, source_rows.start + k * (source_rows.step or 1), 1, keepdims=False)
        products = [gradient[:, columns] * source[:, source_columns] for _, columns, source_columns in across]
        return [total + product.astype(jnp.float32) for total, product in zip(sums, products, strict=True)]

    sums = [jnp.zeros((x.shape[0], where.stop - where.start, x.shape[3]), jnp.float32) for _, where, _ in across]
    return [total.sum((0, 1)) for total in lax.fori_loop(0, rows.stop - rows.start, add_row, sums)]


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def channel_mean(x):
    """Mean over all but the last axis: [b, h, w, c] -> [c]."""
    return _channel_sum(x, 1 / (x.size // x.shape[-1]))


def _channel_sum(x, weight: float = 1.0):
    """Sum over all but the last axis, as a matrix product: [..., c] -> [c]."""
    rows = x.reshape(-1, x.shape[-1])
    return jnp.full(len(rows), weight, x.dtype) @ rows


@jax.custom_vjp
def add_bias(x, bias):
    """[..., c] plus [c]; the bias' gradient is a product too."""
    return x + bias


add_bias.defvjp(lambda x, bias: (x + bias, None), lambda _, dy: (dy, _channel_sum(dy)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_channels(x, scale, bias, epsilon: float):
    """Each pixel's channels to mean 0 and variance 1, times `scale`, plus `bias`."""
    return _normal(x, epsilon)[0] * scale + bias


def _normal(x, epsilon: float):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + epsilon)
    return (x - mean) * inverse, inverse


def _normalize_channels_forward(x, scale, bias, epsilon):
    return normalize_channels(x, scale, bias, epsilon), (x, scale)


def _normalize_channels_backward(epsilon, saved, dy):
    x, scale = saved
    normal, inverse = _normal(x, epsilon)
    scaled = dy * scale
    mean = jnp.mean(scaled, axis=-1, keepdims=True)
    dx = (scaled - mean - normal * jnp.mean(scaled * normal, axis=-1, keepdims=True)) * inverse
    return dx, _channel_sum(dy * normal), _channel_sum(dy)


normalize_channels.defvjp(_normalize_channels_forward, _normalize_channels_backward)


@jax.custom_vjp
def attention(q, k, v):
    """softmax(q k / sqrt(d)) v of each head: [b, t, heads, d] and twice [b, s, heads, d] -> [b, t, heads, d].

    Rows of the weights belong to keys, columns to queries: so maxima and sums run over rows, long vectors, and all
    products take their operands as they lie. Sums over all weights, which JAX's gradient has, are sums over channels.
    """
    return _attention_forward(q, k, v)[0]


def _attention_forward(q, k, v):
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("bshd,bthd->bhst", k, q * scale, preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jnp.max(logits, axis=2, keepdims=True))
    inverse = 1 / jnp.sum(weights, axis=2)  # [b, heads, t]
    weights = weights.astype(v.dtype)
    y = jnp.einsum("bhst,bshd->bthd", weights, v, preferred_element_type=jnp.float32)
    y = (y * inverse.swapaxes(1, 2)[..., None]).astype(v.dtype)
    return y, (q, k, v, weights, inverse, y)


def _attention_backward(saved, dy):
    q, k, v, weights, inverse, y = saved
    dy = (dy * inverse.swapaxes(1, 2)[..., None]).astype(v.dtype)
    dv = jnp.einsum("bhst,bthd->bshd", weights, dy)
    mean = jnp.sum(dy * y, axis=-1, dtype=jnp.float32).swapaxes(1, 2)[:, :, None]
    dlogits = jnp.einsum("bshd,bthd->bhst", v, dy, preferred_element_type=jnp.float32) - mean
    dlogits = (dlogits * weights * q.shape[-1] ** -0.5).astype(v.dtype)
    return jnp.einsum("bhst,bshd->bthd", dlogits, k), jnp.einsum("bhst,bthd->bshd", dlogits, q), dv


attention.defvjp(_attention_forward, _attention_backward)


def moments(x):
    """Mean and biased variance of [b, h, w, c] over all but the channels, float32 [c]."""
    x = x.astype(jnp.float32)
    mean = channel_mean(x)
    return mean, channel_mean(jnp.square(x - mean))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def resize_axis(x, axis: int, length: int, align_corners: bool):
    """One axis' resize as a blend of two gathered rows; its gradient, the transposed blend, gathers too."""
    return _blend(x, axis, _interpolation_matrix(x.shape[axis], length, align_corners))


def _interpolation_matrix(source: int, length: int, align_corners: bool) -> np.ndarray:
    """Bilinear weights of an axis: [length, source], rows sum to one."""
    lower, upper, share = taps(source, length, align_corners)
    outputs, matrix = np.arange(length), np.zeros((length, source), np.float32)
    matrix[outputs, lower] = 1 - share
    matrix[outputs, upper] += share
    return matrix


def _blend(x, axis: int, matrix: np.ndarray):
    """The sparse product of `matrix` with an axis of x: gathers as many rows as the matrix has entries a row."""
    entries = np.count_nonzero(matrix, axis=1).max()
    rows = np.argsort(matrix == 0, axis=1, kind="stable")[:, :entries]
    weights = np.take_along_axis(matrix, rows, axis=1)
    along = [-1 if a == axis else 1 for a in range(x.ndim)]
    parts = [jnp.take(x, rows[:, k], axis, mode="clip") * weights[:, k].reshape(along) for k in range(entries)]
    return functools.reduce(operator.add, parts).astype(x.dtype)


def _resize_forward(x, axis, length, align_corners):
    return resize_axis(x, axis, length, align_corners), x.shape[axis]


def _resize_backward(axis, length, align_corners, source, dy):
    return (_blend(dy, axis, _interpolation_matrix(source, length, align_corners).T),)


resize_axis.defvjp(_resize_forward, _resize_backward)


def max_pool(x):
    """3x3 max pooling, stride 2, padded with minus infinity; the gradient goes to the first maximum of a window.

    The gradient gathers, where XLA's scatters, which is 20 times slower.
    """
    return _max_pool(x, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size: tuple[int, int]):
    return functools.reduce(jnp.maximum, _window_pixels(x))


def _window_pixels(x) -> list:
    """For each of the nine places in a window, the pixel there of every window: [b, ceil(h / 2), ceil(w / 2), c]."""
    rows, columns = (2 * ((length - 1) // 2) + 1 for length in x.shape[1:3])
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
    return [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]


def _max_pool_forward(x, size):
    y = cast(jax.Array, _max_pool(x, size))
    place = jnp.full(y.shape, 9, jnp.int8)
    for k, pixel in reversed(list(enumerate(_window_pixels(x)))):
        place = jnp.where(pixel == y, jnp.int8(k), place)
    return y, place


def _max_pool_backward(size, place, dy):
    # pixel (2 r, 2 c) is the middle of window (r, c); odd rows and columns lie in two windows, at its edge
    height, width = ((length + 1) // 2 for length in size)
    more = ((0, 0), (0, height + 1 - dy.shape[1]), (0, width + 1 - dy.shape[2]), (0, 0))
    place, dy = jnp.pad(place, more, constant_values=9), jnp.pad(dy, more)
    place, dy = lax.optimization_barrier((place, dy))

    def pixels(odd_row: int, odd_column: int):
        total = 0
        for i, row in ((2, 0), (0, 1)) if odd_row else ((1, 0),):
            for j, column in ((2, 0), (0, 1)) if odd_column else ((1, 0),):
                window = (slice(None), slice(row, row + height), slice(column, column + width))
                total += jnp.where(place[window] == 3 * i + j, dy[window], 0)
        return total

    rows = [jnp.stack([pixels(i, 0), pixels(i, 1)], 3) for i in (0, 1)]
    dx = jnp.stack(rows, 2).reshape(dy.shape[0], 2 * height, 2 * width, dy.shape[3])
    return (dx[:, : size[0], : size[1]],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
