"""Batches keep their order, and only devices without work count as waiting for them."""

import pytest

from se_jax.training import feed


def test_prefetch_keeps_the_order():
    assert list(feed.prefetch(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(feed.prefetch(iter([]))) == []


class Measured:
    """A value that a step measured, done or not."""

    def __init__(self, done):
        self.done, self.waited_for = done, False

    def is_ready(self):
        return self.done

    def block_until_ready(self):
        self.waited_for = True
        return self


@pytest.mark.parametrize(
    ("before", "counted"),
    [((), 3.0), ((True,), 3.0), ((False,), 0.0), ((True, False), 0.0), ((True, True), 3.0)],
    ids=["first", "idle", "busy", "two steps, busy", "two steps, idle"],
)
def test_only_idle_devices_count_as_waiting_for_data(before, counted, monkeypatch):
    clock = iter((10.0, 13.0))
    monkeypatch.setattr(feed.time, "monotonic", lambda: next(clock))
    recent = [{"loss": Measured(done)} for done in before]
    assert feed.fetch(iter("ab"), recent) == ("a", counted)
    assert all(step["loss"].waited_for for step in recent[:-1])
