"""The overfitting check on a data set of noise; that such runs train and evaluate is tested elsewhere."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import voc2012
from experiments import overfit
from se_jax import parallel
from se_jax.models import build
from se_jax.training import loop, start
from se_jax.training.preemption import Stopped
from tests.data_pipelines import trees


def test_images_and_labels_are_shrunk_together(tmp_path):
    root = trees.write_voc2012(tmp_path)
    trees.write_image(root / "JPEGImages" / "2007_b.jpg", size=(20, 10))
    trees.write_mask(root / "SegmentationClass" / "2007_b.png", [0, 3], trees.VOC_PALETTE, size=(20, 10))
    count, size, pixels = overfit.shrink("voc2012", str(root), "trainaug", 2, 8, tmp_path / "out")
    assert (count, size) == (2, (6, 8))  # two of three images; the first is of 12 x 16
    assert len(pixels) == 21
    pictures = tmp_path / "out" / "images" / "train", tmp_path / "out" / "annotations" / "train"
    first, second = (np.asarray(Image.open(pictures[1] / f"{k}.png")) for k in range(2))
    assert first.shape == second.shape == (6, 8) == np.asarray(Image.open(pictures[0] / "0.png")).shape[:2]
    assert set(np.unique(first)) == {0, 1, 255} and set(np.unique(second)) == {0, 3}
    assert (tmp_path / "out" / "images" / "train" / "2.png").exists() is False
    assert pixels.sum() == (first != 255).sum() + (second != 255).sum()
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["classes"] == list(voc2012.LABELS.names)


def test_it_trains_and_evaluates_on_the_same_images(tmp_path, capsys, monkeypatch):
    seen = []

    def trained(config, workdir):
        seen.append(config)
        return {"iou": {"a": 0.8, "b": 0.0, "c": None, "d": 0.6}, "acc": {"a": 0.9, "b": None, "c": None, "d": 0.7}}

    monkeypatch.setattr(loop, "train_and_evaluate", trained)
    source = trees.write_voc2012(tmp_path)
    arguments = ["--dataset=voc2012", f"--source={source}", "--split=train", "--size=16", f"--workdir={tmp_path}"]
    assert overfit.main(arguments) == 0.7  # 'b' is in no label
    assert "2 images of voc2012: mIoU 70.00 over the 2 classes that occur" in capsys.readouterr().out
    config = seen[0]
    assert config.data.crop == (48, 64)  # four times 12 x 16
    assert config.data.batch_size == jax.device_count()  # two images, more than once
    assert config.loss.class_weights[1] > config.loss.class_weights[0] == 1  # background has most pixels
    start.check(config)
    start.check_devices(config, parallel.make_mesh())
    build(config.model)
    data = data_pipelines.build(config.data)
    assert len(data.train) == len(data.val) == 2
    batch = next(data_pipelines.train_batches(data, config.data, seed=0, start_step=0))
    assert batch["image"].shape[1:3] == (48, 64) and (batch["size"] == (48, 64)).all()


def test_a_stopped_run_has_no_result(tmp_path, monkeypatch):
    def stop(*_):
        raise Stopped("Stopped at step 3", 15)

    monkeypatch.setattr(loop, "train_and_evaluate", stop)
    source = trees.write_voc2012(tmp_path)
    with pytest.raises(SystemExit, match="143"):
        overfit.main(["--dataset=voc2012", f"--source={source}", "--size=16", f"--workdir={tmp_path}"])


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(SystemExit, match="is not a directory"):
        overfit.main(["--dataset=voc2012", f"--source={tmp_path / 'absent'}", f"--workdir={tmp_path / 'runs'}"])
