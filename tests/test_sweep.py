"""Sweeps and comparisons: which runs there are, what is left as it is, and what is shown."""

import json
import runpy
import subprocess
import sys

import pytest


def of(module):
    return runpy.run_module(module)


def finished(place, miou):
    place.mkdir(parents=True, exist_ok=True)
    result = {"step": 2, "images": 1, "miou": miou, "iou": {"a": miou, "b": miou}, "acc": {"a": 1.0, "b": 1.0}}
    (place / "metrics.json").write_text(json.dumps(result | {"macc": 1.0, "aacc": 1.0}))


def test_every_combination_and_seed_has_a_directory_of_its_own():
    combinations = of("se_jax.sweep")["combinations"]
    arms = combinations(["optimizer.learning_rate=0.01,0.03", "data.crop=(64, 64),(32, 32)"], seeds=2)
    assert len(arms) == 8
    assert arms["learning_rate=0.03,crop=_32,_32_,seed=1"] == [
        "--config.optimizer.learning_rate=0.03",
        "--config.data.crop=(32, 32)",
        "--config.seed=1",
    ]
    assert combinations([], 1) == {"config": []}
    for entry in ("optimizer.learning_rate", "seed=", "seed=1,"):
        with pytest.raises(ValueError, match="expected OPTION=VALUE"):
            combinations([entry], 1)


def test_a_sweep_goes_on_and_names_what_failed(tmp_path, monkeypatch):
    ran, sweep = [], of("se_jax.sweep")
    arms = sweep["combinations"](["optimizer.learning_rate=0.01,0.03"], seeds=2)

    def run(command, **_):
        ran.append(command)
        place = tmp_path / next(each for each in command if each.startswith("--workdir=")).rpartition("/")[2]
        fails = "--config.seed=1" in command and len(ran) < 5
        if not fails:
            finished(place, 0.5 if "rate=0.01" in str(place) else 0.25)
        return subprocess.CompletedProcess(command, int(fails))

    monkeypatch.setattr(subprocess, "run", run)

    def train():
        return sweep["train"](arms, "shapes_uper", ["--config.num_steps=2"], tmp_path, 1)

    assert sorted(train()) == ["learning_rate=0.01,seed=1", "learning_rate=0.03,seed=1"] and len(ran) == 4
    assert all("--config.num_steps=2" in command and "--config=shapes_uper" in command for command in ran)
    assert train() == [] and len(ran) == 6  # the two that had failed
    lines = sweep["table"]({name: tmp_path / name for name in arms}).splitlines()
    assert lines[1].split() == ["learning_rate=0.01", "50.00", "0.00", "2", "50.00", "50.00"]
    assert lines[2].split()[:2] == ["learning_rate=0.03", "25.00"]


def test_a_misspelt_option_is_named_before_anything_runs(tmp_path):
    call = [sys.executable, "-m", "se_jax.sweep", "--config=shapes_uper", f"--workdir={tmp_path / 'out'}"]
    done = subprocess.run([*call, "--set", "optimizer.learning_rte=1"], capture_output=True, text=True)
    assert done.returncode == 1 and "did you mean optimizer.learning_rate" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_runs_side_by_side(tmp_path, capsys):
    names = of("se_jax.compare")["names"]
    for name, miou in (("a/run", 0.5), ("b/run", 0.75)):
        finished(tmp_path / name, miou)
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert names(runs) == ["a/run", "b/run"] and names([runs[0], tmp_path / "c"]) == ["run", "c"]
    call = [sys.executable, "-m", "se_jax.compare", *map(str, runs), f"--output={tmp_path / 'page.html'}"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "+25.00" in done.stdout and "b/run" in (tmp_path / "page.html").read_text()
    done = subprocess.run([*call[:3], str(runs[0]), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "expected the workdir of a finished run" in done.stderr
