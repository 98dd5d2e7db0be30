"""Layers' forms for XLA's CPU backend, whose own operators or gradients are slow here; equal to them in number.

Only `se_jax.models.layers` calls these, and chooses. What each gained over XLA's own form, forward and backward, was
measured on 2 cores with jax 0.10; `python -m experiments.benchmark` measures whole networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@jax.custom_vjp
def product(x, matrix):
    """[b, h, w, c] times [c, out]. The gradient that JAX makes for the matrix transposes an operand first."""
    return x @ matrix


def _product_forward(x, matrix):
    return x @ matrix, (x, matrix)


def _product_backward(saved, dy):
    x, matrix = saved
    dmatrix = lax.dot_general(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), (((0,), (0,)), ((), ())))
    return dy @ matrix.T, dmatrix


product.defvjp(_product_forward, _product_backward)


def conv_by_taps(x, kernel, padding: int, dilation: int):
    """Convolution of stride 1 as one matrix product a tap, each over the pixels where the tap falls inside the map.

    Where the dilation is large against the map, much of the convolution would multiply zeros of the padding.
    """

    def inside(length: int, taps: int):
        """For every tap that meets the map: its index, the output rows [start, stop) it reaches, and their source."""
        outputs = length + 2 * padding - dilation * (taps - 1)
        for tap in range(taps):
            offset = tap * dilation - padding
            start, stop = max(0, -offset), min(outputs, length - offset)
            if start < stop:
                yield tap, (start, outputs - stop, 0), slice(start + offset, stop + offset)

    size = [n + 2 * padding - dilation * (taps - 1) for n, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)]
    y = jnp.zeros((x.shape[0], *size, kernel.shape[3]), x.dtype)
    for i, pad_rows, rows in inside(x.shape[1], kernel.shape[0]):
        for j, pad_columns, columns in inside(x.shape[2], kernel.shape[1]):
            part = product(x[:, rows, columns], kernel[i, j])
            y += lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), pad_rows, pad_columns, (0, 0, 0)))
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(x, kernel, strides: int, padding: int, dilation: int):
    """Depthwise convolution as shifted multiply-adds; the kernel's gradient sums all taps' products row by row."""
    return _shifted_sum(x, kernel, strides, dilation, ((padding, padding, 0),) * 2)


def _shifted_sum(x, kernel, strides: int, dilation: int, padding):
    """Depthwise cross-correlation; `padding` is (low, high, interior) of rows and of columns, as `lax.pad` has it."""
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *padding, (0, 0, 0)))
    extent = [
        (length - dilation * (taps - 1) - 1) // strides * strides + 1
        for length, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    y = 0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * dilation, j * dilation
            y += x[:, top : top + extent[0] : strides, left : left + extent[1] : strides] * kernel[i, j, 0]
    return y


def _depthwise_forward(x, kernel, strides, padding, dilation):
    return depthwise(x, kernel, strides, padding, dilation), (x, kernel)


def _depthwise_backward(strides, padding, dilation, saved, dy):
    x, kernel = saved
    taps_h, taps_w = kernel.shape[:2]
    # the input's gradient: dy, spread over the strides, through the kernel turned around
    spread = []
    for length, outputs, taps in zip(x.shape[1:3], dy.shape[1:3], (taps_h, taps_w), strict=True):
        low = dilation * (taps - 1) - padding
        spread.append((low, length - 1 + padding - strides * (outputs - 1), strides - 1))
    dx = _shifted_sum(dy, kernel[::-1, ::-1], 1, dilation, spread)

    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    columns = [slice(j * dilation, j * dilation + (dy.shape[2] - 1) * strides + 1, strides) for j in range(taps_w)]

    def add_row(row, sums):
        here = lax.dynamic_index_in_dim(dy, row, 1, keepdims=False)
        above = [
            lax.dynamic_index_in_dim(padded, row * strides + i * dilation, 1, keepdims=False) for i in range(taps_h)
        ]
        products = [source[:, column] * here for source in above for column in columns]
        return [total + product.astype(jnp.float32) for total, product in zip(sums, products, strict=True)]

    sums = [jnp.zeros((x.shape[0], *dy.shape[2:]), jnp.float32)] * (taps_h * taps_w)
    sums = lax.fori_loop(0, dy.shape[1], add_row, sums)
    dkernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape)
    return dx, dkernel.astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _channel_mean(x):
    """Mean over all but the last axis, as a matrix product: [b, h, w, c] -> [c]."""
    rows = x.reshape(-1, x.shape[-1])
    return jnp.full(len(rows), 1 / len(rows), x.dtype) @ rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(x, scale, bias, epsilon: float):
    """(normalised x, mean, biased variance); the last two are for the running statistics and have no gradient."""
    mean = _channel_mean(x)
    var = _channel_mean(jnp.square(x - mean))
    return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def _normalize_batch_forward(x, scale, bias, epsilon):
    y, mean, var = normalize_batch(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, lax.rsqrt(var + epsilon))


def _normalize_batch_backward(epsilon, saved, gradients):
    x, scale, mean, inverse = saved
    dy, count = gradients[0], x.size // x.shape[-1]
    normal = (x - mean) * inverse
    dbias, dscale = _channel_mean(dy), _channel_mean(dy * normal)
    dx = (dy - dbias - normal * dscale) * (inverse * scale)
    return dx, dscale * count, dbias * count


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def resize_axis(x, axis: int, length: int, align_corners: bool):
    """One axis' resize as a blend of two gathered rows; its gradient, the transposed blend, gathers too."""
    return _blend(x, axis, _interpolation_matrix(x.shape[axis], length, align_corners))


def _interpolation_matrix(source: int, length: int, align_corners: bool) -> np.ndarray:
    """Bilinear weights of an axis: [length, source], rows sum to one."""
    outputs = np.arange(length)
    if align_corners:
        position = outputs * ((source - 1) / max(length - 1, 1))
    else:
        position = np.maximum((outputs + 0.5) * (source / length) - 0.5, 0)
    lower = np.minimum(position.astype(int), source - 1)
    matrix = np.zeros((length, source), np.float32)
    matrix[outputs, lower] = 1 - (position - lower)
    matrix[outputs, np.minimum(lower + 1, source - 1)] += position - lower
    return matrix


def _blend(x, axis: int, matrix: np.ndarray):
    """The sparse product of `matrix` with an axis of x: gathers as many rows as the matrix has entries a row."""
    entries = np.count_nonzero(matrix, axis=1).max()
    rows = np.argsort(matrix == 0, axis=1, kind="stable")[:, :entries]
    weights = np.take_along_axis(matrix, rows, axis=1)
    along = [-1 if a == axis else 1 for a in range(x.ndim)]
    y = sum(jnp.take(x, rows[:, k], axis, mode="clip") * weights[:, k].reshape(along) for k in range(entries))
    return y.astype(x.dtype)


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
    y = _max_pool(x, size)
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
