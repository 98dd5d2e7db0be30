"""Random points in the unit square, and what maps are there: bilinear, and zero outside (detectron2's PointRend).

Points are (x, y) in [0, 1); a map of w columns is read at x * w - 0.5, so its outermost half pixel fades.
"""

import jax
import jax.numpy as jnp
from jax import lax

NOWHERE = 255  # the label of what lies outside of a map


def corners(maps, points, outside=0):
    """The four pixels around points, and the shares with which they count.

    Args:
      maps: [..., h, w]. points: float32 [..., p, 2]; leading axes of 1 are repeated. outside: the value around a map.

    Returns:
      (pixels [..., p, 2, 2], by row and column; float32 shares that go with them, whose sum is 1).
    """
    height, width = maps.shape[-2:]
    position = points * jnp.asarray([width, height], jnp.float32) - 0.5
    first = jnp.floor(position)
    right, down = jnp.moveaxis(position - first, -1, 0)
    start = first.astype(jnp.int32) + 1  # in the map with a border
    start = jnp.broadcast_to(start, (*maps.shape[:-2], *start.shape[-2:]))
    bordered = jnp.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)], constant_values=outside)

    def pixels(bordered, start):
        return jax.vmap(lambda at: lax.dynamic_slice(bordered, (at[1], at[0]), (2, 2)))(start)

    for _ in maps.shape[:-2]:
        pixels = jax.vmap(pixels)
    rows, columns = (jnp.stack([1 - share, share], axis=-1) for share in (down, right))
    return pixels(bordered, start), rows[..., :, None] * columns[..., None, :]


def sample(maps, points):
    """Maps float32 [..., h, w] at points [..., p, 2]: [..., p]."""
    pixels, shares = corners(maps, points)
    return jnp.sum(pixels * shares, axis=(-2, -1))


def sample_classes(label, points, ids):
    """Each class's mask at points, without a mask being made: a sample is the share of the pixels of that class.

    Args:
      label: [b, h, w] ids. points: [b, m, p, 2], or [b, 1, p, 2] for all classes. ids: int32 [b, m], below `NOWHERE`.

    Returns:
      float32 [b, m, p].
    """
    pixels, shares = corners(label, points.reshape(len(points), -1, 2), NOWHERE)
    pixels, shares = (x.reshape(*points.shape[:-1], 2, 2) for x in (pixels, shares))
    return jnp.sum(jnp.where(pixels == ids[..., None, None, None], shares, 0), axis=(-2, -1))
