"""Data set, encoder, decoder, loss and metric from outside the library: they train, and the trainer is not touched."""

import json

import jax
import numpy as np
import pytest

import se_jax
from se_jax import parallel
from se_jax.config import options
from se_jax.evaluation import inference
from se_jax.evaluation.protocol import Protocol
from se_jax.models import build
from tests.training.toy_queries import COLOURS, ClassesFound, SetLoss

TOYS = "tests.training.toy_queries"


def toy_config():
    """A run whose data set, encoder and decoder are not the library's."""
    config = options.get_config()
    config.num_steps = 100
    config.data.update(name=f"{TOYS}:two_halves", image_size=(32, 32), crop=(32, 32), num_train=32, num_val=8)
    config.data.update(batch_size=8, ratio_range=(1.0, 1.0), cat_max_ratio=1.0, photometric=False)
    config.eval.update(every_steps=50, batch_size=8)
    config.checkpoint.update(every_steps=100, best="val/found")
    config.log.every_steps = 1
    config.optimizer.update(name="adamw", learning_rate=0.02, weight_decay=0.0)
    config.model.encoder = {"name": f"{TOYS}:Patches", "width": 16}
    config.model.decoder = {"name": f"{TOYS}:QueryHead", "channels": 16, "queries": 3}
    config.model.num_classes, config.model.auxiliary = 4, None
    config.model.equalizer.mode = "none"
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sets")
    result = se_jax.train_and_evaluate(
        toy_config(), workdir, own_losses=[SetLoss(weight=2.0, targets=2)], own_metrics=[ClassesFound(4)]
    )
    return workdir, result


def test_a_set_prediction_network_trains(trained):
    workdir, result = trained
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in history if "loss" in line]
    assert [line["loss_sets"] for line in history if "loss" in line] == losses
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert "accuracy" not in history[0]  # scores that are no logits are too dear for every step
    assert result["found"] == 1 and result["miou"] > 0.9
    assert [line["found"] for line in history if "found" in line][-1] == result["found"]
    assert "<h2>Masks</h2>" in (workdir / "report.html").read_text()
    with np.load(workdir / "segments.npz") as segments:
        assert segments["mask"].shape == (3, 32, 32) and segments["class_id"].shape == segments["score"].shape == (3,)
        assert segments["image"].shape == (32, 32, 3)
        # each half of the picture belongs to a query of its class, which is its colour
        shown = [COLOURS[k] for k, mask in zip(segments["class_id"], segments["mask"], strict=True) if mask.max() > 127]
        assert {tuple(colour) for colour in segments["image"][0, [0, -1]].tolist()} <= set(shown)


def test_it_is_evaluated_and_predicts_as_any_other(trained):
    predictor = se_jax.load(trained[0])
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    assert predictor.predict(image).shape == (40, 30)


def test_scores_that_are_not_resized_logits_are_the_decoders_own():
    """Whole images, windows and views of a decoder with scores of its own, against its scores at once."""
    model = build(toy_config().model)
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.uint8)
    variables = parallel.jit_once(model.init)(jax.random.key(0), se_jax.normalize(image))
    expected = np.asarray(model.scores(jax.jit(model.apply)(variables, se_jax.normalize(image)), (48, 64)))

    def scores(protocol):
        programs = inference.build(model, protocol)
        programs.tile = 32
        found = np.zeros((48, 64, 4), np.float32)
        for rows, columns, part in programs.scores(variables, image):
            found[rows, columns] = part[0, : rows.stop - rows.start, : columns.stop - columns.start]
        return found

    np.testing.assert_allclose(scores(Protocol()), expected[0], atol=1e-6)
    window = model.scores(jax.jit(model.apply)(variables, se_jax.normalize(image[:, :32, :32])), (32, 32))
    sliding = scores(Protocol("slide", (32, 32), (32, 32)))
    np.testing.assert_allclose(sliding[:16, :32], np.asarray(window)[0, :16], atol=1e-6)  # no other window covers it
    views = scores(Protocol(tta=True))
    assert np.all(views.sum(-1) <= 12 * 4 + 1e-3) and np.all(views >= 0)  # sums of twelve views, without a softmax


def test_the_memory_of_such_scores_is_bounded(monkeypatch):
    model = build(toy_config().model)
    monkeypatch.setattr(inference, "MOST_SCORES", 64 * 64 * 4 - 1)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    variables = parallel.jit_once(model.init)(jax.random.key(0), se_jax.normalize(image))
    programs = inference.Inference(model, Protocol(), parallel.make_mesh(devices=jax.devices()[:1]))
    with pytest.raises(ValueError, match="64x64 pixels and 4 classes are 16,384 numbers.*eval.batch_size=1"):
        programs.class_ids(variables, image)
