"""The files of a run: one writer, whole files, damage named."""

import os
import subprocess
import sys

import numpy as np
import pytest

from se_jax import run

HOLD = "import sys; from se_jax import run\nwith run.lock(sys.argv[1]):\n print('held', flush=True); sys.stdin.read()"


def test_a_second_writer_is_told_who_the_first_is_until_the_kernel_lets_go(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"in use: process {holder.pid} on .*, since .* give another --workdir"):
        run.lock(tmp_path).__enter__()
    holder.kill()  # no chance to clean up
    holder.wait()
    for _ in range(2):
        with run.lock(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / run.LOCK).read_text()


def test_a_file_that_cannot_be_written_to_its_end_leaves_the_old_one(tmp_path):
    path = run.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        run.write_json(path, {"a": object()})
    run.write_arrays(tmp_path / "b.npz", {"x": np.arange(3)})
    with pytest.raises(ValueError):
        run.write_arrays(tmp_path / "b.npz", {"x": np.array([object()])})
    assert run.read_json(path) == {"a": 1}
    assert run.read_arrays(tmp_path / "b.npz")["x"].tolist() == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.npz"]


@pytest.mark.parametrize("data", [b"", b"\x00" * 20, b'{"a": 1', b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.json is (empty|damaged)"):
        run.read_json(tmp_path / "a.json")


def test_damaged_arrays_are_named(tmp_path):
    path = run.write_arrays(tmp_path / "a.npz", {"x": np.arange(100)})
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:60] + bytes([whole[60] ^ 8]) + whole[61:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="a.npz is damaged"):
            run.read_arrays(path)


def test_the_unfinished_last_line_of_a_history_is_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert run.read_history(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n\x00\x00\x00')
    assert run.read_history(path) == [{"step": 1}]
    for damaged in (b'{"st\n{"step": 2}\n', b"{}\n", b"[1]\n"):
        path.write_bytes(b'{"step": 1}\n' + damaged)
        with pytest.raises(ValueError, match="history.jsonl, line 2, is damaged"):
            run.read_history(path)


def test_a_full_disk_is_told_whatever_library_met_it(tmp_path, monkeypatch):
    for error in (OSError(28, "No space left on device"), RuntimeError('RESOURCE_EXHAUSTED: Error writing "x"\nmore')):
        with (
            pytest.raises(run.DiskFull, match=r"disk of .* is full \(.* free\); step 3 is safe. Make room"),
            run.full_disk_told(tmp_path, lambda: "step 3 is safe"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="^RESOURCE_EXHAUSTED: Out of memory$"), run.full_disk_told(tmp_path, str):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    usage = run.shutil.disk_usage(tmp_path)
    run.check_room(tmp_path, 1)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    with pytest.raises(run.DiskFull, match="has 2.00 MB free, but writing a checkpoint takes 3.00 MB"):
        run.check_room(tmp_path, 3_000_000)
