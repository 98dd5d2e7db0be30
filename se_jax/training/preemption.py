"""SIGTERM: a run that is asked to end saves its state first."""

import contextlib
import signal
import threading

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def preemption():
    """Gives `stopping(step)`: whether SIGTERM asked the run to end. Every process gets the same answer at a step."""
    if jax.process_count() > 1:  # JAX watches for the signal itself, and agrees on a step with the other processes
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
