"""Random points in the unit square, and what maps are there: bilinear, and zero outside (detectron2's PointRend).

Points are (x, y) in [0, 1); a map of w columns is read at x * w - 0.5, so its outermost half pixel fades.
"""

import jax
import jax.numpy as jnp

NOWHERE = 255  # the label of what lies outside of a map


def draw(key, count: int):
    """`count` points [count, 2], uniform in the unit square, on a grid of 65536 x 65536: 32 random bits each."""
    bits = jax.random.bits(key, (count,), jnp.uint32)
    return (jnp.stack([bits >> 16, bits & 0xFFFF], axis=-1).astype(jnp.float32) + 0.5) / 2**16


def corners(maps, points, outside=0):
    """The four pixels around points, one after the other, and the shares with which they count.

    Args:
      maps: [..., h, w]. points: float32 [..., p, 2]; leading axes of 1 are repeated. outside: the value around a map.

    Yields:
      (pixels [..., p]; float32 shares that go with them), four times; the shares add up to 1.
    """
    width = maps.shape[-1]
    position = points * jnp.asarray([width, maps.shape[-2]], jnp.float32) - 0.5
    first = jnp.floor(position)
    right, down = jnp.moveaxis(position - first, -1, 0)
    column, row = jnp.moveaxis(first.astype(jnp.int32) + 1, -1, 0)  # in the map with a border
    border = [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)]
    flat = jnp.pad(maps, border, constant_values=outside).reshape(*maps.shape[:-2], -1)
    start = jnp.broadcast_to(row * (width + 2) + column, (*maps.shape[:-2], points.shape[-2]))
    for y, of_row in enumerate((1 - down, down)):
        for x, of_column in enumerate((1 - right, right)):
            at = start + (y * (width + 2) + x)
            yield jnp.take_along_axis(flat, at, axis=-1, mode="promise_in_bounds"), of_row * of_column


def sample(maps, points):
    """Maps float32 [..., h, w] at points [..., p, 2]: [..., p]."""
    return sum(pixels * shares for pixels, shares in corners(maps, points))


def sample_classes(label, points, ids):
    """Each class's mask at points, without a mask being made: a sample is the share of the pixels of that class.

    Args:
      label: [b, h, w] ids. points: [b, m, p, 2], or [b, 1, p, 2] for all classes. ids: int32 [b, m], below `NOWHERE`.

    Returns:
      float32 [b, m, p].
    """
    samples = 0.0
    for pixels, shares in corners(label, points.reshape(len(points), -1, 2), NOWHERE):
        pixels, shares = (x.reshape(points.shape[:-1]) for x in (pixels, shares))
        samples += jnp.where(pixels == ids[..., None], shares, 0)
    return samples
