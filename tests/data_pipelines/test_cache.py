import logging

import numpy as np

from data_pipelines import cache
from data_pipelines.cache import Cache


def example(pixels):
    return np.zeros((1, pixels, 3), np.uint8), np.zeros((1, pixels), np.uint8)


def test_as_many_as_fit_are_kept_and_it_is_said_once(caplog):
    kept = Cache("set (train)", limit=100)
    with caplog.at_level(logging.WARNING):
        for index, pixels in enumerate((10, 15, 1, 20)):  # 40, 60 and 4 bytes: one too many
            kept.keep(index, *example(pixels))
    assert list(kept) == [0, 1] and kept.bytes == 100
    assert len(caplog.messages) == 1 and "2 decoded examples of set (train) fill 0.0 GB" in caplog.messages[0]


def test_an_example_counts_once():
    kept = Cache("set", limit=100)
    for _ in range(3):
        kept.keep(7, *example(10))
    assert kept.bytes == 40


def test_the_limit_is_a_share_of_the_memory_that_is_free_at_the_first_example(monkeypatch):
    free = 200
    monkeypatch.setattr(cache, "free_memory", lambda: free)
    kept = Cache("set")
    assert kept.limit is None
    kept.keep(0, *example(10))
    assert kept.limit == 100
    free = 10
    kept.keep(1, *example(10))
    assert kept.limit == 100 and len(kept) == 2


def test_free_memory_is_a_number_of_bytes():
    assert 2**24 < cache.free_memory() < 2**50
