"""Whole tiny runs on generated shapes: stopped, killed, gone on with, refused."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from se_jax import checkpoints, parallel, run, run_config
from se_jax.config import datasets, options
from se_jax.config.normalization import INCEPTION
from se_jax.equalizer import calibrate
from se_jax.training import loop
from se_jax.training.loop import train_and_evaluate
from se_jax.training.preemption import Stopped
from se_jax.training.records import NonFiniteLoss
from tests import tiny

# ---- Whole runs ----


def tiny_config(**model_changes):
    """Seven steps on generated shapes with a very small network, on all eight devices."""
    config = datasets.shapes(options.decoder("aspp", channels=4, dilations=(1, 2)), **tiny.ENCODER)
    config.num_steps = 7
    config.ema_decay = 0.5
    config.data.update(image_size=(32, 32), crop=(32, 32), num_train=16, num_val=3, batch_size=8)
    config.eval.update(every_steps=3, batch_size=8)
    config.checkpoint.update(every_steps=2, keep=3)
    config.log.every_steps = 1
    config.calibration.max_images = 8
    config.model.auxiliary.channels = 4
    config.model.equalizer.update(model_changes)
    config.optimizer.freeze = ("^encoder/layer1_0/",)
    config.model.normalization = INCEPTION
    return config


def read_history(workdir):
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


def last_state(workdir):
    """Everything in the last checkpoint, by path, as bytes."""
    store = checkpoints.Checkpoints(workdir)
    metadata = store.manager.item_metadata(store.last)
    here = parallel.replicated(parallel.make_mesh())

    def read(item):
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), metadata[item])
        args = checkpoints.ocp.args.Composite(**{item: checkpoints.ocp.args.StandardRestore(target)})
        return store.manager.restore(store.last, args=args)[item]

    leaves = jax.tree_util.tree_leaves_with_path({item: read(item) for item in ("variables", "progress")})
    store.close()
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.fixture(scope="module", autouse=True)
def compiled_fast():
    """All runs: a few steps of a few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "jit", parallel.jit_once)
        yield


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """(workdir, result) of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train_and_evaluate(tiny_config(), workdir)


def test_a_run_leaves_everything_behind(whole_run):
    workdir, result = whole_run
    names = ("config.json", "environment.json", "equalizer.json", "history.jsonl", "labels.json")
    for name in (*names, "metrics.json", "report.html", "samples.npz", "confusion.npz", "worst.npz"):
        assert (workdir / name).stat().st_size > 0, name
    assert list(workdir.glob("events.out.tfevents*"))
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics == result
    assert (metrics["step"], metrics["images"], metrics["equalizer"]) == (7, 3, "explicit")
    assert 0 <= metrics["miou"] <= 1
    assert len(metrics["iou"]) == 9
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["devices"]["count"] == 8
    assert environment["parameters"] > 1000
    assert environment["flops_per_step"] > 1e6
    rows = json.loads((workdir / "equalizer.json").read_text())["rows"]
    assert [row["branch"] for row in rows] == ["image_pool", "dilation1", "dilation2"]


def test_history_has_every_logged_step_and_evaluation(whole_run):
    history = read_history(whole_run[0])
    logged = [line for line in history if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in history if "miou" in line] == [3, 6, 7]
    np.testing.assert_allclose(
        [line["loss"] for line in logged], [line["loss_decoder"] + line["loss_auxiliary"] for line in logged], rtol=1e-6
    )
    assert logged[0]["learning_rate"] == pytest.approx(0.05)
    assert logged[-1]["learning_rate"] == pytest.approx(1e-4)


def test_the_best_and_the_last_checkpoints_can_be_loaded(whole_run):
    for which in ("best", "last"):
        _, variables = checkpoints.load_for_inference(whole_run[0], which)
        assert sorted(variables) == ["batch_stats", "equalizer", "params"]


def test_a_run_that_signals_stopped_goes_on_to_the_same_bits(whole_run, tmp_path, monkeypatch):
    """In a step and in an evaluation: nothing is lost, and nothing done twice."""
    workdir, expected = whole_run
    prefetch, measure, evaluated = loop.prefetch, loop.evaluator.measure, []
    handler = signal.getsignal(signal.SIGINT)  # Python's, or none where the tests run in the background of a script

    def killing(batches, ahead=2):
        for step, batch in enumerate(prefetch(batches, ahead), start=1):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    def interrupted(*args, each, step, **options):
        def interrupt():
            if step == 6:
                os.kill(os.getpid(), signal.SIGINT)
            each()

        evaluated.append(step)
        return measure(*args, each=interrupt, step=step, **options)

    monkeypatch.setattr(loop, "prefetch", killing)
    monkeypatch.setattr(loop.evaluator, "measure", interrupted)
    with pytest.raises(Stopped, match="Stopped at step 5, which is saved") as stopped:
        train_and_evaluate(tiny_config(), tmp_path)
    assert stopped.value.signal == signal.SIGTERM
    assert [line["step"] for line in read_history(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 3
    assert not (tmp_path / "report.html").exists()
    with (tmp_path / "history.jsonl").open("a") as file:  # as a run leaves that died between two checkpoints
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')

    monkeypatch.setattr(loop, "prefetch", prefetch)
    monkeypatch.setattr(calibrate, "equalize", None)  # what was measured comes back with the checkpoint
    with pytest.raises(Stopped, match="Stopped at step 6, which is saved") as stopped:
        train_and_evaluate(tiny_config(), tmp_path)
    assert stopped.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler
    assert evaluated == [3, 6]

    def counted(*args, step, **options):
        evaluated.append(step)
        return measure(*args, step=step, **options)

    monkeypatch.setattr(loop.evaluator, "measure", counted)
    result = train_and_evaluate(tiny_config(), tmp_path)
    assert evaluated == [3, 6, 6, 7]
    assert last_state(tmp_path) == last_state(workdir)
    assert result == expected
    assert read_history(tmp_path) == read_history(workdir)

    # a finished run started again only reports
    assert train_and_evaluate(tiny_config(), tmp_path) == expected
    assert evaluated == [3, 6, 6, 7]
    assert read_history(tmp_path) == read_history(workdir)


def test_a_killed_run_goes_on_with_other_devices(whole_run, tmp_path, monkeypatch):
    """From 8 devices to kernels split over 2 of 4, then to one device: the numbers of the whole run."""
    devices, fetch = jax.devices(), loop.fetch
    workdir, expected = whole_run
    shutil.copytree(workdir, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        if int(folder.name) > 3:
            shutil.rmtree(folder)

    def go_on(count, model, until):
        def kill(batches, recent):
            if len(seen) == until:
                raise SystemError("killed")
            seen.append(None)
            return fetch(batches, recent)

        seen = []
        config = tiny_config()
        config.mesh.update(model=model, fsdp=model > 1)
        monkeypatch.setattr(jax, "devices", lambda *_: devices[:count])
        monkeypatch.setattr(loop, "fetch", kill)
        return train_and_evaluate(config, tmp_path / "run")

    with pytest.raises(SystemError):
        go_on(4, 2, 2)
    with (tmp_path / "run" / "history.jsonl").open("a") as file:  # of later steps, whose checkpoints were not written
        file.writelines(json.dumps(line) + "\n" for line in read_history(workdir) if line["step"] > 5)
    result = go_on(1, 1, None)
    assert result["miou"] == pytest.approx(expected["miou"], abs=0.02)
    ours, theirs = read_history(tmp_path / "run"), read_history(workdir)
    # also the evaluations whose checkpoints were lost stand there again
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    ours, theirs = ([line["loss"] for line in lines if "loss" in line] for lines in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_a_signal_while_calibrating_ends_the_run_before_its_first_step(tmp_path, monkeypatch):
    calibration = loop.start.data_pipelines.calibration_batches

    def killing(*args, **options):
        for batch in calibration(*args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(loop.start.data_pipelines, "calibration_batches", killing)
    with pytest.raises(Stopped, match="before the first step"):
        train_and_evaluate(tiny_config(), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_workdir_has_one_writer(tmp_path):
    with run.lock(tmp_path), pytest.raises(OSError, match=f"is in use: process {os.getpid()} on .*, since 20.* trains"):
        train_and_evaluate(tiny_config(), tmp_path)


def test_counts_are_printed_and_warnings_kept(tmp_path, monkeypatch, capsys):
    """Before training as a table, after it in metrics.json, which the report shows."""
    from tests.data_pipelines.conftest import write_folder

    config = options.get_config()
    config.data.update(name="folder", dir=str(write_folder(tmp_path / "set", [(16, 16)] * 2)))
    config.model.num_classes = 3
    data = loop.open_data(config)
    printed = capsys.readouterr().out
    assert "other" in printed and "<- none" in printed and "counted: train: all 2 annotations" in printed
    monkeypatch.setattr(loop.evaluator, "write_pictures", lambda *_, **__: None)
    monkeypatch.setattr(loop.train_state, "variables", lambda *_, **__: None)
    scores = {"miou": 0.5, "macc": 0.5, "aacc": 0.5, "iou": {"a": 0.5, "b": None}, "acc": {"a": 0.5, "b": None}}
    loop.finish(config, tmp_path, None, None, data, None, scores, {})
    assert json.loads((tmp_path / "metrics.json").read_text())["warnings"] == list(data.warnings)
    assert "mean of 1 of 2 classes" in capsys.readouterr().out
    assert "no pixel of 1 of 3 classes" in (tmp_path / "report.html").read_text()


def test_another_config_is_refused(whole_run):
    config = tiny_config()
    config.optimizer.learning_rate = 0.04
    with pytest.raises(run_config.ConfigMismatch, match="optimizer.learning_rate: 0.05 -> 0.04"):
        train_and_evaluate(config, whole_run[0])


def test_the_arms_of_a_comparison_start_from_the_same_function(whole_run, tmp_path):
    config = tiny_config(mode="folded")
    config.num_steps = 1
    train_and_evaluate(config, tmp_path)
    explicit, folded = read_history(whole_run[0])[0], read_history(tmp_path)[0]
    assert folded["loss"] == pytest.approx(explicit["loss"], rel=1e-4)
    assert "equalizer" not in checkpoints.load_for_inference(tmp_path)[1]


def test_a_run_starts_from_another_and_stops_where_it_diverges(whole_run, tmp_path):
    config = tiny_config(mode="none")
    config.init_from = str(whole_run[0])
    config.optimizer.learning_rate = 1e30
    config.log.every_steps = 100
    with pytest.raises(NonFiniteLoss) as error:
        train_and_evaluate(config, tmp_path)
    message = str(error.value)
    assert "training diverged at step 2" in message
    assert "loss_decoder" in message
    assert "Last good checkpoint: there is none yet" in message


# ---- Options that cannot be ----


def changed(**changes):
    config = tiny_config()
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.batch_size": 12}, "data.batch_size is 12, .* over 8 devices .* multiple of 8, e.g. 8 or 16"),
        ({"data.batch_size": 8, "accumulate": 2}, "in 2 parts .* multiple of 16, e.g. 16"),
        ({"data.crop": (4, 32)}, r"data.crop is \(4, 32\); expected .* at least 8"),
        ({"data.crop": (32,)}, r"data.crop is \(32,\)"),
        ({"num_steps": 0}, "num_steps is 0; expected a whole number"),
        ({"eval.every_steps": 0}, "eval.every_steps is 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"checkpoint.best": "val/iou"}, "checkpoint.best is 'val/iou'; expected one of val/miou, val/macc, val/aacc"),
        ({"loss.average": "mean"}, "loss.average is 'mean'; expected one of valid, all"),
        ({"eval.scale": (3,)}, "eval.scale is"),
        ({"optimizer.name": "adam"}, "optimizer.name is 'adam'"),
        ({"mesh.model": 3}, "mesh.model is 3"),
        ({"model.num_classes": 4}, "model.num_classes is 4, but the data set has 9 classes"),
    ],
)
def test_options_that_cannot_be_are_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(changed(**changes), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run cannot be written .* give another --workdir"):
        train_and_evaluate(tiny_config(), tmp_path / "file" / "run")
