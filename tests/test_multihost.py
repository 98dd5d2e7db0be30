"""Joining other processes; a run of two of them beside the same run in one; and telling of one that is gone."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from se_jax import checkpoints, multihost
from se_jax.training import loop
from tests import together
from tests.data_pipelines.conftest import write_folder

SIZES = [(20, 30)] * 5


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


def start(number: int, address: str, *args) -> subprocess.Popen:
    """Process `number` of two, with one device."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.together", *map(str, args)],
        env={**os.environ, **environment, "JAX_PROCESS_ID": str(number)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen) -> dict:
    """What a process says of its work, once it is done."""
    lines = iter(process.stdout.readline, "")
    found = next((line for line in lines if line.startswith("{")), None)
    assert found, process.stderr.read()
    return json.loads(found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two processes that is stopped, evaluated, and gone on with by one; and the same run of one alone.

    Its fields: `told`, what each of the two says; workdirs `stopped`, as the two left it, `two`, as the one that went
    on left it, and `one`, never stopped; `status` and `errors` of process 0 when process 1 had been killed.
    """
    root = tmp_path_factory.mktemp("multihost")
    two, one, config = root / "two", root / "one", together.config(str(write_folder(root / "set", SIZES)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(number, address, config.data.dir, two) for number in range(2)]
    steps, devices, compile_step = [], jax.devices()[:2], loop.compile_train_step

    def compile_once(*args):
        steps.append(steps[0] if steps else compile_step(*args))
        return steps[0]

    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("devices", "local_devices"):
                patch.setattr(jax, name, lambda *_, **__: devices)
            patch.setattr(loop, "compile_train_step", compile_once)
            loop.train_and_evaluate(config, one)  # while the two are at work
            told = [answer(process) for process in processes]
            processes[1].kill()
            stopped = shutil.copytree(two, root / "stopped")
            shutil.rmtree(two / "submission")
            loop.train_and_evaluate(config, two)
            alone = shutil.copytree(stopped, root / "alone", ignore=shutil.ignore_patterns("submission"))
            together.evaluate(config, alone, "last")
        _, errors = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    fields = {"told": told, "stopped": stopped, "two": two, "one": one, "alone": alone}
    return SimpleNamespace(**fields, status=processes[0].returncode, errors=errors)


def history(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


def assert_same_numbers(lines: list[dict], others: list[dict]):
    assert [line.keys() for line in lines] == [line.keys() for line in others]
    for line, other in zip(lines, others, strict=True):
        np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5, atol=1e-6)


def test_two_processes_calibrate_and_train_as_one(runs):
    rows, expected = (json.loads((where / "equalizer.json").read_text())["rows"] for where in (runs.stopped, runs.one))
    assert [row["branch"] for row in rows] == ["input", "convs"]
    for key in ("mean", "std"):
        np.testing.assert_allclose([row[key] for row in rows], [row[key] for row in expected], rtol=1e-5)
    lines = history(runs.stopped)
    assert len(lines) >= together.STOPPED + 1  # steps, and the evaluation of the second one
    assert_same_numbers(lines, history(runs.one)[: len(lines)])


def test_sigterm_to_one_process_stops_both_at_one_step_which_is_saved(runs):
    step = history(runs.stopped)[-1]["step"]
    assert together.STOPPED <= step < 4
    said = f"Stopped at step {step}, which is saved; the same command goes on"
    assert [told["said"] for told in runs.told] == [said, said]
    assert checkpoints.last_good(runs.stopped).startswith(f"last good checkpoint: step {step} ")


def test_one_process_goes_on_to_the_end_of_a_run_of_one(runs):
    assert_same_numbers(history(runs.two), history(runs.one))
    result, expected = (json.loads((where / "metrics.json").read_text()) for where in (runs.two, runs.one))
    assert result["step"] == 4
    assert result == expected


def test_two_processes_evaluate_and_predict_as_one(runs):
    result, expected = (json.loads((where / "evaluation.json").read_text()) for where in (runs.stopped, runs.alone))
    assert result["images"] == 5
    assert result == expected
    files, others = (sorted((where / "submission").iterdir()) for where in (runs.stopped, runs.alone))
    assert [file.name for file in files] == [f"im{k}.png" for k in range(5)]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in others]


def test_what_every_process_does_and_what_they_share(runs):
    """As docs/cloud.md says."""
    everything = list(range(len(SIZES)))
    first, second = (told["training"] for told in runs.told)
    for read in (first, second):
        assert sorted(read["counted (train)"]) == sorted(read["counted (val)"]) == everything
        assert set(read["sizes (val)"]) == set(everything)
    assert "config.json" in first["written"] and "written" not in second
    first, second = (told["evaluation"] for told in runs.told)
    assert sorted(set(first["decoded (val)"])) == [0, 2, 4]  # batches of two images, and the pictures of the report
    assert sorted(second["decoded (val)"]) == [1, 3]
    assert first["written"] == ["evaluation.json"] and "written" not in second


def test_where_a_process_is_gone_the_other_says_which_and_ends(runs):
    told = "se_jax: process 1 of 2 gave no sign of life for 6 s and is gone; last good checkpoint: step"
    assert runs.status == 1
    assert told in runs.errors
    assert "Traceback" not in runs.errors and "Fatal" not in runs.errors
