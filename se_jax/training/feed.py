"""Batches on their way to the devices, ahead of the step that needs them."""

import collections
import time

import jax


def prefetch(batches, ahead: int = 2):
    """The same batches, with the transfer of the next `ahead` ones to the devices under way."""
    queue = collections.deque()
    for batch in batches:
        queue.append(batch)
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def fetch(batches, recent: list[dict]) -> tuple[dict, float]:
    """The next batch, and the seconds for which the devices had nothing to do until it came.

    recent: what the last steps measured. The host runs two steps ahead of the devices at most, so that batches do not
    pile up in their memory. Seconds count where the last step was done before the batch was there, all of them: more
    than the devices waited by at most what was left of that step.
    """
    if len(recent) > 1:
        jax.block_until_ready(recent[-2])
    before = time.monotonic()
    batch = next(batches)
    idle = not recent or all(leaf.is_ready() for leaf in jax.tree.leaves(recent[-1]))
    return batch, (time.monotonic() - before) * idle
