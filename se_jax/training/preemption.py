"""SIGTERM and Ctrl-C: a run that is asked to end saves its state first, and tells its caller."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end; the message says where it goes on from.

    A KeyboardInterrupt, so that no `except Exception` takes it for a failure of the run.

    Attributes:
      signal: its number. A command ends with status 128 + this, as a shell reports a process that a signal ended.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class Asked:
    """Whether a signal asked the run to end. Every process gets the same answer at the same call.

    Attributes:
      signal: the number of the signal that this process received, or SIGTERM.
    """

    def __init__(self):
        self.signal = signal.SIGTERM
        self.received = False
        self.calls = 0

    def __call__(self) -> bool:
        if jax.process_count() == 1:
            return self.received
        self.calls += 1  # JAX watches for SIGTERM itself, and agrees on one of these numbers with the other processes
        return multihost_utils.reached_preemption_sync_point(self.calls)

    def obey(self, message: str) -> None:
        """Raises Stopped with that message if the run was asked to end."""
        if self():
            raise Stopped(message, self.signal)

    def receive(self, number, _frame) -> None:
        """The handler of a signal."""
        self.signal, self.received = signal.Signals(number), True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # what JAX tells the other processes of


@contextlib.contextmanager
def preemption() -> Iterator[Asked]:
    """Gives an `Asked`. While it is open the first signal waits to be obeyed; a second one ends the process at once.

    In a run of several processes that goes for Ctrl-C; SIGTERM is JAX's there, and a second one changes nothing.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield asked
        return
    taken = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
    before = {number: signal.signal(number, asked.receive) for number in taken}
    # A handler waits for the interpreter, and a compilation can keep it waiting for minutes: the bytes do not
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watched = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(watched)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)


def _watch(reading: int) -> None:
    """Tells of the first signal, and ends the process at the second, of those whose numbers can be read."""
    received = 0
    with open(reading, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            if byte[0] not in SIGNALS:
                continue
            received += 1
            if received > 1:
                os._exit(128 + byte[0])
            name = signal.Signals(byte[0]).name
            print(f"{name}: the run ends after this step or batch, saved; once more ends it at once", file=sys.stderr)
