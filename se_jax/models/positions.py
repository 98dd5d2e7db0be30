"""Where patches are: learnt tables resized to other grids, and rotations of queries and keys.

Sources: facebookresearch/dinov2 (tables by torch's bicubic interpolate), facebookresearch/dinov3 (rotations), timm
(antialiased tables).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax


def cubic_matrix(source: int, length: int, *, antialias: bool = False, offset: float = 0.0) -> np.ndarray:
    """Weights [length, source] of torch's bicubic interpolate along an axis, with half-pixel centres.

    Without `antialias`: a = -0.75, four taps, places beyond the border are the border. With it: a = -0.5, a kernel that
    is as much wider as the result is smaller, cut off at the border and normalised.

    offset: the scale is taken as (length + offset) / source, which moves the centres: DINOv2 gives 0.1.
    """
    ratio = source / (length + offset)
    position = (np.arange(length) + 0.5) * ratio - 0.5
    if antialias:
        distance = np.abs(position[:, None] - np.arange(source)) / max(ratio, 1.0)
        weights = _cubic(distance, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    first, matrix = np.floor(position).astype(int), np.zeros((length, source))
    for tap in (-1, 0, 1, 2):
        column = np.clip(first + tap, 0, source - 1)
        np.add.at(matrix, (np.arange(length), column), _cubic(np.abs(position - first - tap), -0.75))
    return matrix


def _cubic(distance, a: float):
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def resize_table(table, grid: tuple[int, int], size: tuple[int, int], *, antialias: bool, offset: float):
    """Positions float32 [h * w, c] of the patches of `grid` = (h, w) -> those of the grid `size`, [h' * w', c].

    What stays as it is: a table of the same grid, which DINOv2 does not resize either.
    """
    if grid == size:
        return table
    options = {"antialias": antialias, "offset": offset}
    rows, columns = (np.float32(cubic_matrix(*lengths, **options)) for lengths in zip(grid, size, strict=True))
    squares = table.reshape(*grid, -1)
    resized = jnp.einsum("is,jt,stc->ijc", rows, columns, squares, precision=lax.Precision.HIGHEST)
    return resized.reshape(-1, table.shape[-1])


def rotations(grid: tuple[int, int], channels: int, base: float = 100.0, factor: Any = 1.0):
    """DINOv3's rotary positions of a grid: (cosines, sines), float32 [h * w, channels], for heads of that width.

    A quarter of the angles belongs to each of the two halves' rows, another to its columns; both halves have the same.

    factor: of all coordinates, which lie in (-1, 1) along each side: a number, or a traced scalar.
    """
    sides = [2 * (np.arange(length, dtype=np.float32) + 0.5) / length - 1 for length in grid]
    places = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    periods = base ** (4 * np.arange(channels // 4, dtype=np.float32) / channels)
    angles = 2 * np.pi * (jnp.asarray(places) * factor) / periods
    angles = jnp.tile(angles.reshape(len(places), -1), 2)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x, rotation):
    """Turns the last tokens of x [b, n, heads, d] by `rotations` of them; those in front stay as they are."""
    cosines, sines = (part[:, None].astype(x.dtype) for part in rotation)
    front, patches = jnp.split(x, [x.shape[1] - len(cosines)], axis=1)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cosines + jnp.concatenate([-second, first], axis=-1) * sines
    return jnp.concatenate([front, turned], axis=1)
