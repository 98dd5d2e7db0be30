"""Ranks by counting, against sorting."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np

from se_jax.losses.ranks import lowest, of_rank


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.booleans())
@hypothesis.settings(max_examples=20)
def test_the_lowest_are_those_of_a_stable_sort(seed, count, ties):
    rng = np.random.default_rng(seed)
    values = (
        rng.integers(0, 5, (2, 3, 20)) if ties else rng.exponential(size=(2, 3, 20)) * 10.0 ** rng.integers(-20, 20)
    )
    values = values.astype(np.float32)
    expected = np.sort(np.argsort(values, axis=-1, kind="stable")[..., :count], axis=-1)
    np.testing.assert_array_equal(jax.jit(lowest, static_argnums=1)(values, count), expected)


def test_a_rank_among_some_of_the_values():
    values = np.array([[3, 0, 7], [1, 9, 2]], np.float32)
    there = np.array([[True, False, True], [True, True, False]])
    assert [of_rank(values, rank, where=there) for rank in range(4)] == [1, 3, 7, 9]
    np.testing.assert_array_equal(of_rank(values, 1, axis=-1), [[3], [2]])
