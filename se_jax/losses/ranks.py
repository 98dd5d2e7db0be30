"""The lowest of many numbers, found by counting: nothing is sorted, and what lies on several devices stays there."""

import jax
import jax.numpy as jnp
from jax import lax


def of_rank(values, rank, *, where=None, axis=None):
    """The value of 0-based rank `rank`, from the lowest, of float32 values none of which is negative.

    Args:
      where: booleans like `values`, which of them are ranked; all by default. What is found where there is no such
        rank, means nothing. axis: of the values that are ranked among each other; by default all of them together.

    Returns:
      A scalar, or `values` with `axis` reduced to 1.
    """
    # floats that are not negative are ordered as their bits are
    bits = lax.bitcast_convert_type(values, jnp.int32)
    bits = bits if where is None else jnp.where(where, bits, jnp.iinfo(jnp.int32).max)

    def count_below(limit):
        return jnp.sum(bits < limit, axis=axis, keepdims=axis is not None)

    def refine(i, found):  # bit by bit, from the highest
        candidate = found | (1 << (30 - i))
        return jnp.where(count_below(candidate) <= rank, candidate, found)

    found = lax.fori_loop(0, 31, refine, jnp.zeros_like(count_below(0), jnp.int32))
    return lax.bitcast_convert_type(found, jnp.float32)


def lowest(values, count: int):
    """Where along the last axis the `count` lowest of its values are, in the order of their places.

    Of equal values the first ones are taken. Several times faster than `lax.top_k` for thousands of values on a CPU.

    Args:
      values: float32 [..., n], none negative.

    Returns:
      int32 [..., count].
    """
    limit = of_rank(values, count - 1, axis=-1)
    below, equal = values < limit, values == limit
    room = count - jnp.sum(below, axis=-1, keepdims=True)
    kept = below | (equal & (jnp.cumsum(equal, axis=-1) <= room))
    slot = jnp.where(kept, jnp.cumsum(kept, axis=-1) - 1, count).reshape(-1, values.shape[-1])  # `count`: dropped
    place = jnp.arange(values.shape[-1], dtype=jnp.int32)
    found = jax.vmap(lambda at: jnp.zeros(count, jnp.int32).at[at].set(place, mode="drop"))(slot)
    return found.reshape(*values.shape[:-1], count)
