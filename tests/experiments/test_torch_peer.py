"""What a PyTorch twin gets to train from: our initial weights, our batches, a rate for every step."""

import jax
import numpy as np
import pytest

from experiments import torch_peer
from se_jax import parallel, run
from se_jax.config import recipes
from se_jax.models import build
from se_jax.training.step import stream
from tests import tiny

STEPS = 60  # a warm-up of none is long past


def recipe():
    config = recipes.load("shapes_aspp")
    config.model.encoder.update(tiny.ENCODER)
    config.model.decoder.channels = 8
    config.data.update(crop=(32, 32), batch_size=2, num_train=4, num_val=2)
    config.num_steps = STEPS
    return torch_peer.prepare(config)


def test_a_twin_gets_weights_batches_and_rates(tmp_path):
    config = recipe()
    model = build(config.model)
    variables = parallel.jit_once(model.init)(stream(0, "params"), np.zeros((1, 32, 32, 3), np.float32))
    torch_peer.write_inputs(config, model, variables, tmp_path)
    rates = run.read_json(tmp_path / "recipe.json")["rates"]
    assert len(rates) == STEPS and rates[0] == pytest.approx(config.optimizer.learning_rate) and rates[-1] < rates[0]
    weights = run.read_arrays(tmp_path / "start.npz")
    sizes = [leaf.size for collection in ("params", "batch_stats") for leaf in jax.tree.leaves(variables[collection])]
    assert sum(array.size for array in weights.values()) == sum(sizes)
    images, labels = (np.load(tmp_path / f"{name}.npy") for name in ("images", "labels"))
    assert images.shape == (STEPS, 2, 3, 32, 32) and labels.shape == (STEPS, 2, 32, 32)
    assert 0.5 < images.std() < 2  # normalised


def test_what_one_side_cannot_do_is_refused():
    config = recipes.load("shapes_aspp")
    config.ema_decay = 0.9
    with pytest.raises(ValueError, match="ema_decay is 0.9; what is trained on both sides has 0.0"):
        torch_peer.prepare(config)
