"""A fit to generated shapes, and a training run with it: W stays as it was fitted, and the loss passes its floor."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data_pipelines
from se_jax import checkpoints, constants, losses, parallel, run_config
from se_jax.config import datasets, options
from se_jax.config import optimizers as recipes
from se_jax.dupsampling import fit as dupsample_fit
from se_jax.dupsampling.windows import label_windows
from se_jax.evaluation import predictor as predict
from se_jax.losses.base import IGNORE
from se_jax.models import build
from se_jax.training import optimizers, start, state
from se_jax.training.loop import train_and_evaluate
from se_jax.training.step import make_train_step
from tests import tiny


def tiny_config():
    """Shapes of 64 x 64 pixels, cut into windows of 16 x 16; a network that a core can train."""
    config = datasets.shapes(
        options.decoder("dupsampling", channels=8, codes=24, low_channels=4, dilations=(1, 2), dropout=0.0),
        **tiny.ENCODER | {"variant": "beta"},
        output_stride=16,
    )
    config.num_steps = 3
    config.data.update(image_size=(64, 64), crop=(64, 64), batch_size=8, num_train=24, num_val=6)
    config.eval.update(every_steps=3, batch_size=2)
    config.checkpoint.every_steps = 3
    config.log.every_steps = 1
    config.calibration.update(max_images=8, check_images=0)
    config.optimizer.update(decay_multipliers=recipes.FREE_TEMPERATURE)
    config.model.auxiliary = None
    return config


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(what the fit returned, its workdir)."""
    workdir = tmp_path_factory.mktemp("fit")
    return dupsample_fit.fit(tiny_config(), workdir), workdir


@pytest.fixture(scope="module")
def trained(fitted, tmp_path_factory):
    """The workdir of a run of three steps."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config()
    config.constants_from = str(fitted[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "jit", parallel.jit_once)
        train_and_evaluate(config, workdir)
    return workdir


# ---- The fit ----


def test_a_fit_says_what_it_reached_and_saves_it(fitted, capsys):
    facts, workdir = fitted
    assert facts["miou"] > facts["miou_bilinear"] > 0.2
    assert 0 < facts["error"] < 0.5
    assert (facts["numbers"], facts["codes"], facts["ratio"], facts["method"]) == (2304, 24, 16, "dense")
    assert facts["windows"] + facts["ignored_windows"] == 24 * 16
    assert json.loads((workdir / "constants.json").read_text()) == json.loads(json.dumps(facts))
    text = dupsample_fit.table(facts)
    assert "24 codes: error" in text and f"{100 * facts['miou_bilinear']:.2f} % by bilinear" in text
    with np.load(workdir / "constants.npz") as arrays:
        kernel = arrays["dupsampling/decoder/dupsample/kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(24), atol=1e-5)


def test_both_ways_of_pca_reach_the_same_and_more_codes_reach_more(fitted, tmp_path):
    randomized = dupsample_fit.fit(tiny_config(), tmp_path / "randomized", "randomized")
    assert randomized["error"] == pytest.approx(fitted[0]["error"], rel=0.02)
    config = tiny_config()
    config.model.decoder.codes = 96
    assert dupsample_fit.fit(config, tmp_path / "more")["error"] < 0.7 * fitted[0]["error"]


def test_labels_are_read_at_the_evaluations_size():
    config = tiny_config()
    data = data_pipelines.build(config.data)
    own, half = [], []
    for labels, scale in ((own, None), (half, (32, 32))):
        config.eval.scale = scale
        labels += dupsample_fit.eval_labels(data.val, data.labels, config, "test")
    assert len(own) == len(half) == 6
    np.testing.assert_array_equal(half[2], own[2][::2, ::2])


def test_bilinear_is_what_resizing_the_shares_gives():
    label = np.random.default_rng(0).integers(0, 3, (12, 8)).astype(np.uint8)
    label[:2, :3] = IGNORE
    windows = label_windows(label, 4)
    shares = np.eye(256)[windows].sum(2)[..., :3]
    shares /= shares.sum(-1, keepdims=True)
    scores = jax.image.resize(shares, (12, 8, 3), "linear", antialias=False)
    np.testing.assert_array_equal(dupsample_fit.bilinear_ids(windows, 3), scores.argmax(-1))


def test_all_codes_reconstruct_every_window():
    windows = np.random.default_rng(0).integers(0, 3, (50, 4)).astype(np.uint8)
    ids = dupsample_fit.decoded_ids(windows, np.eye(12, dtype=np.float32), np.zeros(12, np.float32), 3)
    np.testing.assert_array_equal(ids, windows)


# ---- Training with it ----


def test_training_leaves_the_fitted_decoder_as_it_is(fitted, trained):
    _, variables = checkpoints.load_for_inference(trained)
    fit = variables["dupsampling"]["decoder"]["dupsample"]
    with np.load(fitted[1] / "constants.npz") as arrays:
        assert sorted(arrays) == [f"dupsampling/decoder/dupsample/{name}" for name in sorted(fit)]
        for name, value in fit.items():
            np.testing.assert_array_equal(value, arrays[f"dupsampling/decoder/dupsample/{name}"])
    assert variables["params"]["decoder"]["dupsample"]["log_temperature"] != 0
    assert "equalizer" in variables
    predictor = predict.load(trained)
    assert predictor.predict(np.zeros((50, 37, 3), np.uint8)).shape == (50, 37)


def test_a_run_resumes_without_the_fit(trained, tmp_path):
    """Its checkpoint has all that it needs."""
    config = run_config.load(trained)
    model = build(config.model)
    tx, _ = optimizers.build(config.optimizer, config.num_steps)
    blank = start.blank_state(config, model, tx, parallel.make_mesh())
    store = checkpoints.Checkpoints(trained)
    restored = store.restore(blank)
    store.close()
    assert int(restored.step) == 3 and sorted(restored.constants) == ["dupsampling", "equalizer"]
    weights = checkpoints.init_from(trained, jax.tree.map(jnp.zeros_like, state.variables(restored)), model.constants)
    np.testing.assert_array_equal(
        *(tree["dupsampling"]["decoder"]["dupsample"]["bias"] for tree in (weights, state.variables(restored)))
    )


def test_temperature_falls_and_the_loss_passes_below_that_of_perfect_scores_at_one():
    """One batch, learnt by heart with W the identity: without a temperature the loss could not pass ln(1 + 8 / e)."""
    config = tiny_config()
    config.num_steps = 60
    config.model.equalizer.mode = "none"
    config.model.decoder.update(codes=36, ratio=16, low_level=())
    config.optimizer.update(learning_rate=0.3, weight_decay=0.0)
    model = build(config.model)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    label = np.kron(rng.integers(0, 9, (4, 8, 8)), np.ones((8, 8))).astype(np.uint8)
    batch = {"image": image, "label": label, "size": np.full((4, 2), 64, np.int32)}
    variables = parallel.jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    # 36 codes say for each quarter of a window which of nine classes it has
    quarters = np.kron(np.eye(2), np.ones((1, 8)))  # [2, 16]
    kernel = np.einsum("ay,bx,kc->abkyxc", quarters, quarters, np.eye(9)).reshape(36, -1)
    variables["dupsampling"]["decoder"]["dupsample"] = {
        "kernel": jnp.float32(kernel),
        "bias": jnp.zeros(16 * 16 * 9),
    }
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    step = parallel.jit_once(make_train_step(model, tx, schedule, config, losses.build(config.loss, model)))
    current = state.create(variables, tx)
    for _ in range(config.num_steps):
        current, measured = step(current, batch)
    floor = np.log(1 + 8 / np.e)
    assert measured["loss"] < floor
    assert current.params["decoder"]["dupsample"]["log_temperature"][0] < -0.3


def test_l2_pretraining_brings_the_codes_nearer_and_leaves_the_temperature(fitted):
    config = tiny_config()
    config.loss.name = "codes"
    config.model.equalizer.mode = "none"
    config.optimizer.learning_rate = 0.1
    model = build(config.model)
    data = data_pipelines.build(config.data)
    batch = next(data_pipelines.train_batches(data, config.data, seed=0, start_step=0))
    variables = parallel.jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = constants.place(variables, constants.load(fitted[1], model, data.labels.names))
    tx, schedule = optimizers.build(config.optimizer, 1000)
    step = parallel.jit_once(make_train_step(model, tx, schedule, config, losses.build(config.loss, model)))
    current, seen = state.create(variables, tx), []
    for _ in range(12):
        current, measured = step(current, batch)
        seen.append(float(measured["loss"]))
    assert 0 < seen[-1] < 0.97 * seen[0]
    assert current.params["decoder"]["dupsample"]["log_temperature"][0] == 0


# ---- Bad input ----


def test_a_fit_is_not_overwritten(fitted):
    with pytest.raises(FileExistsError, match="constants.npz exists; give another --workdir"):
        dupsample_fit.fit(tiny_config(), fitted[1])


def test_what_cannot_be_fitted_is_refused(tmp_path):
    config = datasets.shapes(options.decoder("aspp"))
    with pytest.raises(ValueError, match="decoder.name is 'aspp'; only 'dupsampling' has a decoder to fit"):
        dupsample_fit.fit(config, tmp_path)
    config = tiny_config()
    config.model.num_classes = 7
    with pytest.raises(ValueError, match="num_classes is 7, but the data set has 9 classes"):
        dupsample_fit.fit(config, tmp_path)


def test_training_without_a_fit_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="constants_from is empty.*python -m se_jax.dupsample_fit"):
        train_and_evaluate(tiny_config(), tmp_path)


def test_the_command_ends_with_a_line_instead_of_a_traceback(tmp_path):
    command = [sys.executable, "-m", "se_jax.dupsample_fit", "--config=configs/shapes_dupsampling.py"]
    changes = [f"--workdir={tmp_path}", "--config.model.decoder.codes=9999"]
    ended = subprocess.run([*command, *changes], capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "se_jax.dupsample_fit: model.decoder.codes is 9999" in ended.stderr
