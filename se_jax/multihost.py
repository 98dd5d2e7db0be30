"""A run of several processes: joining them, and ending where one of them is gone."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EVERY = 1.0  # seconds between two looks at the other processes


@contextlib.contextmanager
def joined(wanted: bool = False, timeout: int = 60, safe: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Joins the other hosts' processes, if `wanted` or if JAX_COORDINATOR_ADDRESS is set; before any use of a device.

    On TPU pods, Slurm, Open MPI and Kubernetes JAX finds out the rest; elsewhere set JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    While it is open a process that finds another one gone says so and ends with status 1. The end waits for the others.
    Where the process with the coordinator (number 0) is gone JAX aborts the others at once, with its own words.

    Args:
      timeout: seconds after which a process that gives no sign of life is gone.
      safe: says what is saved, for the message.
    """
    if not jax.distributed.is_initialized() and (wanted or "JAX_COORDINATOR_ADDRESS" in os.environ):
        jax.config.update("jax_enable_recoverability", True)  # a lost process is ours to tell of, not JAX's to abort at
        names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        given: dict[str, Any] = {key: int(os.environ[name]) for key, name in names.items() if name in os.environ}
        jax.distributed.initialize(heartbeat_timeout_seconds=timeout, **given)
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over, timeout, safe), daemon=True)
    watch.start()
    try:
        yield
    except jax.errors.JaxRuntimeError:  # a collective that lost its other end fails before anybody is known to be gone
        watch.join(timeout + 5 * EVERY)
        raise
    except KeyboardInterrupt:  # of every process at the same step
        multihost_utils.sync_global_devices("stopped")
        raise
    else:
        multihost_utils.sync_global_devices("done")
    finally:
        over.set()


def _watch(over: threading.Event, timeout: int, safe: Callable[[], str]) -> None:
    """Ends this process when another one is gone, unless the run is over."""
    from jax._src import distributed  # JAX has no public name for who is alive

    client, everybody = distributed.global_state.client, list(range(jax.process_count()))
    assert client is not None  # of a process that has joined
    while not over.is_set():
        try:
            alive = client.get_live_nodes(everybody)
        except jax.errors.JaxRuntimeError:  # the coordinator is gone: JAX's own thread ends the process
            return
        gone = [number for number in everybody if number not in alive]
        if gone and not over.is_set():
            which = f"process{'es' * (len(gone) > 1)} {', '.join(map(str, gone))} of {len(everybody)}"
            print(f"se_jax: {which} gave no sign of life for {timeout} s and is gone; {safe()}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
        time.sleep(EVERY)
