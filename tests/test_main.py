"""The command line, as a user meets it: in a process of its own."""

import importlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from se_jax.config import options

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
    "--config=configs/shapes_aspp.py",
    "--config.num_steps=2",
    "--config.data.crop=(32, 32)",
    "--config.data.image_size=(32, 32)",
    "--config.data.num_train=8",
    "--config.data.num_val=2",
    "--config.model.encoder.depth=10",
    "--config.model.encoder.width=4",
    "--config.model.decoder.dilations=(1, 2)",
    "--config.model.equalizer.mode=none",
)


def call(*arguments, module="se_jax.main"):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_a_run_from_the_command_line(tmp_path):
    done = call(*SMALL, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout
    for said in ("Compiling the training step", "First step done", "step 2/2  loss", "images a second", "0:00 left"):
        assert said in done.stderr, said
    for noise in ("oneDNN", "E0000", "I0000", "orbax", "WARNING: All log"):
        assert noise not in done.stdout + done.stderr, noise
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["crop"] == [32, 32]

    # without --config it is that of the run
    longer = call(f"--workdir={tmp_path / 'run'}", "--config.num_steps=4", "--config.seed=1")
    assert longer.returncode == 1
    assert "num_steps: 2 -> 4" in longer.stderr and "seed: 0 -> 1" in longer.stderr
    assert "Traceback" not in longer.stderr
    command = next(line for line in longer.stderr.splitlines() if "-m se_jax.main" in line)
    done = call(*shlex.split(command)[3:])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run_longer" / "metrics.json").read_text())["step"] == 4
    assert call(f"--workdir={tmp_path / 'run'}").returncode == 0  # goes on with what is stored: it has ended


def test_an_unknown_option_is_named(tmp_path):
    done = call("--config=configs/shapes_aspp.py", f"--workdir={tmp_path}", "--config.model.encoder.wdith=8")
    assert done.returncode == 1
    assert "no option model.encoder.wdith; did you mean model.encoder.width?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_value_of_another_type_is_named(tmp_path):
    done = call("--config=configs/shapes_aspp.py", f"--workdir={tmp_path}", "--config.num_steps=many")
    assert done.returncode == 1
    assert "--config.num_steps=many" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "override, message",
    [
        ("eval.scael=3", "no option eval.scael; did you mean eval.scale"),
        ("data.dir.x=1", "no option data.dir.x: data.dir is '', which has no options"),
        ("eval.batch_size=0", "eval.batch_size is 0; expected a whole number"),
    ],
)
def test_the_options_of_an_evaluation_are_checked_too(tmp_path, override, message):
    (tmp_path / "config.json").write_text(options.get_config().to_json())
    done = call(f"--workdir={tmp_path}", f"--config.{override}", module="se_jax.evaluate")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_missing_config_is_named(tmp_path):
    done = call("--config", "configs/shapes_asp.py", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "no config configs/shapes_asp.py" in done.stderr and "shapes_aspp" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--workdir=nowhere",), ("--workdir", "nowhere", "--config.seed=1")])
def test_no_config_and_no_run_to_go_on_with(arguments):
    done = call(*arguments)
    assert done.returncode == 1
    assert "no --config, and no run in nowhere to go on with" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_flag_is_named():
    done = call("--config=configs/shapes_aspp.py")
    assert done.returncode == 1
    assert "--workdir must have a value" in done.stderr


def test_entry_points_can_be_imported_together():
    """Each takes --config or --workdir of its own; only the one that runs may define it."""
    names = (
        "data_pipelines.browse",
        "experiments.receptive_field",
        "se_jax.__main__",
        "se_jax.dupsample_fit",
        "se_jax.importers.__main__",
    )
    for name in ("se_jax.main", *names):
        importlib.import_module(name)
