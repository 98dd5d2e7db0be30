"""The benchmark of the input runs; the loader beside it does the steps of data_pipelines."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import prepare
from data_pipelines.pipeline import train_examples
from experiments import benchmark_input, input_peer
from tests.data_pipelines import trees


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiny pictures and batches in place of those of the recipes."""
    recipe = benchmark_input.recipe

    def small_recipe(name, directory):
        config = recipe(name, directory)
        config.update(batch_size=2, crop=(16, 24), scale=(40, 32))
        return config

    monkeypatch.setattr(benchmark_input, "recipe", small_recipe)
    write = functools.partial(benchmark_input.write_shapes, count=3, size=(32, 40))
    monkeypatch.setattr(benchmark_input, "write_shapes", write)


def test_a_small_run(tmp_path, capsys):
    trees.write_voc2012(tmp_path)
    flags = ["--dataset=voc2012", f"--dir={tmp_path}", "--images=4", "--rounds=1", f"--output={tmp_path / 'out'}"]
    rows = benchmark_input.main(flags)
    assert [(row["data"], row["stage"]) for row in rows] == [
        (name, stage) for name in ("generated", "voc2012") for stage in benchmark_input.STAGES
    ]
    for row in rows:
        assert row["images_per_s"] > 0
        if row["stage"] != "to device":
            assert row["ratio"] == pytest.approx(row["images_per_s"] / row["peer_images_per_s"])
            assert row["processor_ratio"] == pytest.approx(row["peer_processor_ms"] / row["processor_ms"])
    written = json.loads((tmp_path / "out" / "benchmark_input.json").read_text())
    assert written["rows"] == rows and written["environment"]["loader"].startswith(("torch", "multiprocessing"))
    assert (tmp_path / "out" / "benchmark_input.md").read_text().count("| voc2012 |") == 5
    assert "images/s" in capsys.readouterr().out


def test_shards_run_alone(tmp_path, capsys):
    trees.write_ade20k(tmp_path)
    prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    flags = benchmark_input.parse_flags(["--images=2", "--rounds=1"])
    config = benchmark_input.recipe("ade20k", str(tmp_path / "shards"))
    said = []
    rows = benchmark_input.measure("ade20k", config, object(), flags, said.append)
    assert "ade20k: no comparison" in said[0] and len(rows) == 5 and not any("ratio" in row for row in rows)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset=ade20k"], "1 --dataset and 0 --dir"),
        (["--dataset=coco", "--dir=x"], "invalid choice: 'coco'"),
        (["--rounds=0"], "at least 1"),
    ],
)
def test_wrong_flags_are_named(flags, message, capsys):
    with pytest.raises(SystemExit):
        benchmark_input.parse_flags(flags)
    assert message in capsys.readouterr().err


def test_a_loader_that_does_not_start(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(RuntimeError, match="ended with status 3"):
        benchmark_input.Peer(str(tmp_path / "python"))


def test_the_stages_are_those_of_training(tmp_path):
    benchmark_input.write_shapes(tmp_path)
    config = benchmark_input.recipe("folder", str(tmp_path))
    data = data_pipelines.build(config)
    batch = next(data_pipelines.train_batches(data, config, seed=0, start_step=0))
    examples = train_examples(data, config, seed=0, stage="augment")
    np.testing.assert_array_equal(np.stack([next(examples), next(examples)]), batch["image"])
    assert next(train_examples(data, config, seed=0, stage="decode")).tolist() == [32, 40, 3]
    sizes = {sum(map(len, data.train[k][:2])) for k in range(2)}
    assert next(train_examples(data, config, seed=0, stage="read")) in sizes


# ---- the loader beside it ----


def job(**changes):
    steps = {"scale": [40, 32], "ratio_range": [0.5, 2.0], "crop": [16, 24], "cat_max_ratio": 0.75, "flip": 0.5}
    return steps | {"photometric": True, "seed": 0, "stage": "batch", "batch_size": 2} | changes


def test_it_needs_neither_tensorflow_nor_jax():
    code = (
        "import sys; from experiments import input_peer; sys.exit(any(m in sys.modules for m in ('tensorflow', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_its_processor_time_is_that_of_its_workers_too():
    code = """
import multiprocessing, time
from experiments import input_peer

with multiprocessing.get_context("fork").Pool(1) as pool:
    before = input_peer.processor_time() - time.process_time()
    pool.map(sum, [range(3_000_000)])
    print(input_peer.processor_time() - time.process_time() - before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.01 < float(found) < 5


def test_its_image_and_label_move_together():
    """With the label painted into the image, every pixel that is not blended shows its own label."""
    label = np.zeros((32, 40), np.uint8)
    label[8:24, 4:16], label[18:, 24:] = 1, 2
    image = Image.fromarray(np.repeat(label[..., None] * 100, 3, -1))
    shapes = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        picture, crop = input_peer.augment(image, label, random, job(photometric=False, ratio_range=[0.3, 2.0]))
        assert picture.shape == (16, 24, 3) and crop.shape == (16, 24) and picture.dtype == crop.dtype == np.uint8
        content = crop != 255
        shapes.add((content.any(1).sum(), content.any(0).sum()))
        pure = content & (picture[..., 0] % 100 == 0)
        assert pure.sum() > 0.3 * content.sum() and (picture[..., 0][pure] // 100 == crop[pure]).mean() > 0.95
        assert not picture[~content].any()
    assert len(shapes) > 2 and (16, 24) in shapes  # some are smaller than the crop


def test_its_photometric_distortion_changes_colours_and_keeps_the_range():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    results = [input_peer.photometric(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert len({result.tobytes() for result in results}) > 15
    np.testing.assert_array_equal(input_peer.linear(image, 1, 300), np.full_like(image, 255))
