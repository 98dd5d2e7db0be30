"""Trains the head of a network on the features of an encoder that is not trained; several runs at once where it pays.

All runs of a seed, whatever their arm and rate, start from the same weights, see the same images in the same order, and
drop the same channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import arms, variance
from experiments.features import Features
from se_jax import losses, parallel
from se_jax.config.types import ConfigDict
from se_jax.equalizer import calibrate
from se_jax.evaluation.metrics import confusion_matrix
from se_jax.evaluation.protocol import protocol
from se_jax.models import build
from se_jax.models.layers import resize
from se_jax.training import optimizers
from se_jax.training import state as train_state
from se_jax.training.step import stream

CALIBRATED = 64  # images of the pool in a batch of calibration


class Head:
    """The head of one arm: how it starts, one step of it, and its evaluation.

    Attributes:
      config: the arm's. control: its control or ''. starts: of the training features.
    """

    def __init__(self, config, control: str, starts: "Starts"):
        self.config, self.control, self.starts, self.pool = config, control, starts, starts.pool
        self.model = build(config.model)
        self.loss = losses.build(config.loss, self.model)[0]  # the auxiliary head would train nothing but itself
        self.begun = self.start(config.seed)
        self.decoder = self.model.with_equalizer(mode=self.begun.mode).decoder
        self._train_step = parallel.jit(jax.vmap(self._step), donate_argnums=0)
        self._count = parallel.jit(self._confusion, static_argnums=(2, 3))

    def start(self, seed: int) -> arms.Start:
        """Its variables before the first step."""
        return self.starts.of(self.config, self.control, seed)

    def optimizer(self, rate):
        """optax's, of config.optimizer at another rate; what concerns the encoder only is left out."""
        options = self.config.optimizer.to_dict() | {"learning_rate": rate, "freeze": ()}
        for name in ("rate_multipliers", "decay_multipliers"):
            options[name] = tuple(entry for entry in options[name] if not entry[0].startswith("^encoder/"))
        return optimizers.build(ConfigDict(options), self.config.num_steps)[0]

    def states(self, runs: Sequence[tuple[int, float]]):
        """The states of runs (seed, rate) before their first step, stacked."""

        def create(seed, rate):
            variables = self.start(seed).variables
            variables = variables | {"params": {"decoder": variables["params"]}}  # the paths that rules go by
            return train_state.create(variables, self.optimizer(rate))

        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(create(seed, rate) for seed, rate in runs))

    def batch(self, seeds: Sequence[int], step: int):
        """(maps [runs, b, h, w, c], label [runs, b, H, W]) of a step, 0-based."""
        order = np.stack([draw(len(self.pool), self.config.data.batch_size, seed, step) for seed in seeds])
        maps, label = self.pool.take(order.ravel())
        return jax.tree.map(lambda x: x.reshape(*order.shape, *x.shape[1:]), (maps, label))

    def loss_of(self, params, batch_stats, constants, key, maps, label):
        """(loss, running statistics) of parameters of the head alone on a batch."""
        variables = {"params": self.begun.view(params["decoder"]), "batch_stats": batch_stats, **constants}
        with self.begun.around(True):
            outputs, updates = self.decoder.apply(
                variables, maps, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
        batch = {"label": label, "place": jnp.arange(len(label))}
        terms = self.loss(outputs, constants, batch, self.loss.normalizer(batch), key)
        return sum(terms.values()), updates["batch_stats"]

    def _step(self, state, seed, rate, batch):
        key = jax.random.fold_in(stream(seed, "dropout"), state.step)
        gradient = jax.value_and_grad(self.loss_of, has_aux=True)
        (loss, batch_stats), grads = gradient(state.params, state.batch_stats, state.constants, key, *batch)
        return train_state.update(state, grads, batch_stats, self.optimizer(rate)), loss

    def train(self, runs: Sequence[tuple[int, float]], each=lambda step, states: None):
        """Trains runs (seed, rate) side by side; their states and losses [steps, runs], not finite where one diverged.

        each: called before every step and after the last with the steps done and the states.
        """
        seeds, rates = zip(*runs, strict=True)
        states, measured = self.states(runs), []
        numbers = np.asarray(seeds, np.uint32), np.asarray(rates, np.float32)
        for step in range(self.config.num_steps):
            each(step, states)
            states, loss = self._train_step(states, *numbers, self.batch(seeds, step))
            measured.append(loss)
        each(self.config.num_steps, states)
        return states, np.reshape(jax.device_get(measured), (-1, len(runs)))

    def variables(self, states, place: int) -> dict:
        """What the trained module's `apply` takes, of the run at that place."""
        state = jax.tree.map(lambda leaf: leaf[place], states)
        return train_state.variables(state._replace(params=self.begun.view(state.params["decoder"])))

    def confusion(self, variables, features: Features) -> np.ndarray:
        """The confusion matrix int64 [K, K] of a split, at its labels' own size."""
        total, size = 0, features.label.shape[1:3]
        batch_size = self.config.eval.batch_size
        fitted = protocol(self.config.eval).views(size)[0].size
        for first in range(0, len(features), batch_size):
            maps, label = features.take(slice(first, first + batch_size))
            total = total + np.asarray(self._count(variables, (maps, label), fitted, size), np.int64)
        return np.asarray(total)

    def _confusion(self, variables, batch, fitted, size):
        maps, label = batch
        with self.begun.around(False):
            scores = self.model.scores(self.decoder.apply(variables, maps), fitted)
        return confusion_matrix(resize(scores, size, self.model.align_corners), label, self.model.num_classes)


def draw(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Places in the pool of a step's images: every pass over it is a permutation of its own; a batch may span two."""
    first = step * batch_size
    passes = range(first // count, (first + batch_size - 1) // count + 1)
    orders = [np.random.default_rng([seed, number]).permutation(count) for number in passes]
    return np.concatenate(orders)[first - passes[0] * count :][:batch_size]


class Starts:
    """How heads start on a pool of features: drawn and calibrated once a seed, for all arms of the same head."""

    def __init__(self, pool: Features):
        self.pool = pool
        self._known: dict[tuple, Any] = {}

    def of(self, config, control: str, seed: int) -> arms.Start:
        """The start of an arm."""
        plain, mode = self._plain(config, seed), config.model.equalizer.mode
        if mode == "none":
            return arms.start(mode, control, plain, {}, {})
        return arms.start(mode, control, plain, *self._calibrated(config, seed))

    def _plain(self, config, seed: int) -> dict:
        decoder = build(config.model).with_equalizer(mode="none").decoder
        maps = self.pool.take(slice(0, 2))[0]
        key = ("plain", str(config.model.decoder), seed)
        return self._once(key, lambda: parallel.jit_once(decoder.init)(stream(seed, "params"), maps))

    def _calibrated(self, config, seed: int) -> tuple[dict, dict]:
        """(variables with statistics, the sizes of the branches)."""
        decoder, plain = build(config.model).with_equalizer(mode="explicit").decoder, self._plain(config, seed)
        limit, equalizer = config.calibration.max_images, config.model.equalizer

        def batches():
            return ((maps,) for maps in self.pool.batches(CALIBRATED, limit))

        def measure():
            found, _ = calibrate.calibrate(decoder, plain, batches, jit=parallel.jit)
            return found, sizes(
                build(config.model).with_equalizer(mode="none").decoder, plain, self.pool.take(slice(0, 2))[0]
            )

        key = ("calibrated", str(config.model.decoder), equalizer.statistics, str(equalizer.sites), limit, seed)
        return self._once(key, measure)

    def _once(self, key: tuple, make) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def sizes(decoder, variables, maps) -> dict[tuple[str, ...], dict[str, Any]]:
    """{path of a site: {branch key: ((height, width), those of the fused map)}}; nothing is computed."""
    found = {}

    def trace(variables, maps):
        for path, site in variance.branches(decoder, variables, maps).items():
            found[path] = {key: (branch.source, branch.target) for key, (branch, _) in site.items()}

    jax.eval_shape(trace, variables, maps)
    return found
