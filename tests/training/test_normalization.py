"""How images are normalised belongs to the weights: where a run finds it, and what it says of it."""

import logging

import numpy as np
import pytest

from se_jax import run, run_config
from se_jax.config import options
from se_jax.config.complete import complete
from se_jax.config.normalization import IMAGENET, INCEPTION, LITE
from se_jax.importers import export_weights, files
from se_jax.models import build
from se_jax.training.start import with_normalization
from tests import tiny

OTHER = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.fixture
def config(tmp_path):
    """A config that starts from a file of EfficientNet-Lite's encoder by timm's names."""
    made = options.get_config()
    made.model.encoder = options.encoder("efficientnet", variant="lite0", width=0.1, depth=0.1)
    made.model.decoder = options.decoder("segformer", channels=8)
    made.model.auxiliary = None
    encoder = build(made.model).encoder
    files.write(tmp_path / "x.safetensors", export_weights(encoder, tiny.init(encoder, 32), "timm"))
    made.init_from = str(tmp_path / "x.safetensors")
    return made


def test_weights_bring_their_normalization(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = with_normalization(config, tmp_path)
    assert found.model.normalization == INCEPTION
    assert "x.safetensors are normalised by mean (127.5, 127.5, 127.5) and std (127.5" in caplog.text
    assert config.model.normalization is None  # the caller's
    assert build(found.model).normalization == INCEPTION
    # what an export says of itself counts
    tensors = files.read(config.init_from)
    files.write(tmp_path / "said.safetensors", tensors, LITE)
    config.init_from = str(tmp_path / "said.safetensors")
    assert np.allclose(with_normalization(config, tmp_path).model.normalization, LITE)


def test_what_is_given_counts_and_differing_weights_are_named(config, tmp_path, caplog):
    config.model.normalization = OTHER
    assert with_normalization(config, tmp_path).model.normalization == OTHER
    assert "mean (1, 2, 3) and std (4, 5, 6), but the weights of" in caplog.text
    assert "expect mean (127.5, 127.5, 127.5)" in caplog.text


def test_runs_and_imports_are_asked_too(config, tmp_path, caplog):
    """A run that goes on keeps its own, whatever became of the weights that it started from."""
    earlier, imported = tmp_path / "earlier", tmp_path / "imported"
    config.model.normalization = OTHER
    run_config.write(run.make(earlier), config)
    config.model.normalization, config.init_from = None, "gone"
    assert with_normalization(config, earlier).model.normalization == OTHER
    for path in (earlier, earlier / run.CHECKPOINTS / "7"):
        config.init_from = str(path)
        assert with_normalization(config, tmp_path).model.normalization == OTHER
    config.init_from = str(run.make(imported))
    run.write_json(imported / run.IMPORT, {"normalization": LITE})
    assert with_normalization(config, tmp_path).model.normalization == LITE
    run.write_json(imported / run.IMPORT, {})
    caplog.clear()
    assert with_normalization(config, tmp_path).model.normalization == IMAGENET
    assert "ImageNet's, as nothing there says" in caplog.text
    config.init_from = ""
    assert with_normalization(config, tmp_path).model.normalization == IMAGENET


def test_runs_of_earlier_versions_had_imagenets(config):
    del config.model["normalization"]
    assert complete(config).model.normalization == IMAGENET
