"""Linear assignment on the device: which query takes which target, at the least sum of costs.

Shortest augmenting paths (Crouse, On implementing 2D rectangular assignment algorithms, 2016, which scipy's
`linear_sum_assignment` follows too) with all queries of a problem, and all problems, as one vector: a step looks at
every query at once. The loop over the targets ends at the real ones, so that padding costs nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LARGEST = 1e9  # in the place of costs that are no numbers, so that every search ends


class _Search(NamedTuple):
    """A search for the shortest way from a target to a free query, in reduced costs."""

    target: Any  # int32, from which the way goes on
    end: Any  # int32, the free query that was found; -1 so far
    length: Any  # float32, of the way to the query that was settled last
    lengths: Any  # float32 [q], of the ways found so far
    before: Any  # int32 [q], the target before each query on its way
    settled: Any  # bool [q]


def assign(cost, count):
    """The queries that the targets take, such that the sum of the costs is the least.

    Exact up to float32 rounding: of assignments whose sums are nearly equal either may be found.

    Args:
      cost: float32 [..., q, m], m <= q: queries by targets. NaN counts as 1e9, and costs are cut off there.
      count: int [...], how many of the targets are real: the first ones.

    Returns:
      int32 [..., m]: the query of every target, each at most once; -1 for those that are not real.

    Raises:
      ValueError: there are more targets than queries.
    """
    queries, targets = cost.shape[-2:]
    if targets > queries:
        raise ValueError(f"{targets} targets cannot each have one of {queries} queries")
    cost = jnp.nan_to_num(cost.astype(jnp.float32), nan=LARGEST).clip(-LARGEST, LARGEST)
    flat = cost.swapaxes(-1, -2).reshape(-1, targets, queries)
    found = jax.vmap(_assign)(flat, jnp.broadcast_to(count, cost.shape[:-2]).reshape(-1))
    return found.reshape(*cost.shape[:-2], targets)


def _assign(cost, count):
    """One problem: cost [m, q] -> int32 [m]."""
    targets, queries = cost.shape

    def place(state):
        """Gives the next target a query, and others new ones where that is cheaper."""
        target, u, v, query_of, target_of = state
        search = lax.while_loop(
            lambda search: search.end < 0,
            functools.partial(_settle, cost, u, v, target_of),
            _Search(
                target=target,
                end=jnp.int32(-1),
                length=jnp.float32(0),
                lengths=jnp.full(queries, jnp.inf, jnp.float32),
                before=jnp.zeros(queries, jnp.int32),
                settled=jnp.zeros(queries, bool),
            ),
        )
        # duals: reduced costs stay non-negative, and become 0 along the way
        gain = jnp.where(search.settled, search.length - search.lengths, 0)
        u = u + jnp.where(query_of >= 0, gain[query_of], 0)
        u, v = u.at[target].add(search.length), v - gain
        query_of, target_of = _flip(search, target, query_of, target_of)
        return target + 1, u, v, query_of, target_of

    empty = jnp.full(targets, -1, jnp.int32), jnp.full(queries, -1, jnp.int32)
    start = jnp.int32(0), jnp.zeros(targets, jnp.float32), jnp.zeros(queries, jnp.float32), *empty
    return lax.while_loop(lambda state: state[0] < count, place, start)[3]


def _settle(cost, u, v, target_of, search: _Search) -> _Search:
    """Relaxes all queries from the search's target, and settles the nearest one; a free one ends the search."""
    lengths = search.length + cost[search.target] - u[search.target] - v
    nearer = ~search.settled & (lengths < search.lengths)
    lengths = jnp.where(nearer, lengths, search.lengths)
    before = jnp.where(nearer, search.target, search.before)
    open_lengths = jnp.where(search.settled, jnp.inf, lengths)
    length = jnp.min(open_lengths)
    query = jnp.argmax((open_lengths == length) * jnp.where(target_of < 0, 2, 1))  # of equal ones a free one
    owner = target_of[query]
    return _Search(
        target=jnp.maximum(owner, 0),
        end=jnp.where(owner < 0, query, -1).astype(jnp.int32),
        length=length,
        lengths=lengths,
        before=before,
        settled=search.settled.at[query].set(True),
    )


def _flip(search: _Search, target, query_of, target_of):
    """From the free query back to the target: every query on the way goes to the target before it."""

    def step(state):
        query, query_of, target_of = state
        owner = search.before[query]
        following = jnp.where(owner == target, -1, query_of[owner])
        return following, query_of.at[owner].set(query), target_of.at[query].set(owner)

    _, query_of, target_of = lax.while_loop(lambda state: state[0] >= 0, step, (search.end, query_of, target_of))
    return query_of, target_of
