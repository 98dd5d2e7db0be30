"""Joining other processes, and telling of one that is gone."""

import os
import signal
import socket
import subprocess
import sys

import jax

from se_jax import multihost

WAIT = """
import sys, time
from se_jax import multihost
with multihost.joined(timeout=6, safe=lambda: "last good checkpoint: step 40"):
    print("joined", flush=True)
    time.sleep(100)
"""


def test_a_start_waits_to_be_asked(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **kwargs: calls.append(kwargs))
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)

    def join(*args):
        with multihost.joined(*args):
            return

    join()
    assert not calls
    join(True)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    join(False, 30)
    timeout = {"heartbeat_timeout_seconds": 60}
    assert calls == [timeout, {"heartbeat_timeout_seconds": 30, "num_processes": 2, "process_id": 1}]


def test_where_a_process_is_gone_the_other_says_which_and_ends():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAIT],
            env={**environment, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        assert [process.stdout.readline() for process in processes] == ["joined\n"] * 2
        processes[1].send_signal(signal.SIGKILL)
        _, errors = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    told = "se_jax: process 1 of 2 gave no sign of life for 6 s and is gone; last good checkpoint: step 40"
    assert processes[0].returncode == 1
    assert told in errors
    assert "Traceback" not in errors and "Fatal" not in errors
