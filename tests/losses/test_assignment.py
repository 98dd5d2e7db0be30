"""Assignment on the device against scipy's."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from se_jax.losses.assignment import assign

FOUND = jax.jit(assign)


def best(cost, count):
    """The least sum of costs, by scipy, of the first `count` targets."""
    rows, columns = linear_sum_assignment(cost[:, :count])
    return cost[rows, columns].astype(np.float64).sum()


def check(cost, count):
    """Every real target has a query of its own, at the least sum; the others have none."""
    for problem, (queries, real) in enumerate(zip(np.asarray(FOUND(cost, count)), count, strict=True)):
        assert np.all(queries[real:] == -1) and len(set(queries[:real])) == real
        total = cost[problem, queries[:real], np.arange(real)].astype(np.float64).sum()
        np.testing.assert_allclose(total, best(cost[problem], real), rtol=1e-6, atol=1e-5)


def draw(kind, rng, shape):
    """Costs without ties, with many, and such that all targets want the same queries."""
    match kind:
        case "normal":
            cost = rng.normal(size=shape)
        case "ties":
            cost = rng.integers(0, 4, shape)
        case _:
            cost = rng.exponential(size=(*shape[:2], 1)) * rng.uniform(size=(shape[0], 1, shape[2]))
    return cost.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "ties", "contested"])
@pytest.mark.parametrize("queries, targets", [(100, 20), (9, 9), (3, 1)])
def test_sums_are_scipys(kind, queries, targets):
    rng = np.random.default_rng(queries)
    check(draw(kind, rng, (60, queries, targets)), rng.integers(0, targets + 1, 60))


@pytest.mark.parametrize("name", ["100x20", "100x1", "7x7", "integers"])
def test_assignments_are_the_references(golden, name):
    case = golden("m2f_ops")
    cost, expected = case[f"in/costs/{name}"], case[f"out/costs/{name}"]
    found = np.asarray(FOUND(cost, np.full(len(cost), cost.shape[-1])))
    if name == "integers":  # with ties: the sums are equal
        found, expected = (np.take_along_axis(cost, ids[:, None], axis=1).sum() for ids in (found, expected))
    np.testing.assert_array_equal(found, expected)


def test_costs_that_are_no_numbers_end_too():
    cost = np.full((2, 3, 5, 4), np.nan, np.float32)
    cost[1] = np.inf
    cost[1, 0, 2, :] = -np.inf
    found = np.asarray(FOUND(cost, np.full((2, 3), 4)))
    assert found.shape == (2, 3, 4)
    assert all(len(set(queries)) == 4 for queries in found.reshape(-1, 4))


def test_more_targets_than_queries_are_refused():
    with pytest.raises(ValueError, match="3 targets cannot each have one of 2 queries"):
        assign(np.zeros((2, 3), np.float32), 3)
