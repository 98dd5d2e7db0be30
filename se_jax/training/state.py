"""Everything a training run carries from step to step, as a plain pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from se_jax.checkpoints import TRAINED
from se_jax.models.frozen import merged, part_of


class TrainState(NamedTuple):
    """The state of a run; a function of (config, step).

    step: int32 scalar, updates done. params, batch_stats: nested dicts of float32. constants: {collection: its
    variables}, what was measured or fitted before training and stays as it is, e.g. the statistics of run-time
    equalizers. opt_state: optax's, of the parameters that are not frozen. ema: moving average of params, {} where none
    is kept.
    """

    step: Any
    params: Any
    batch_stats: Any
    constants: Any
    opt_state: Any
    ema: Any


def create(variables, tx: optax.GradientTransformation, *, keep_ema: bool = False) -> TrainState:
    """The state before the first step, from a network's variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        constants={name: tree for name, tree in variables.items() if tree and name not in TRAINED},
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if keep_ema else {},
    )


def variables(state: TrainState, *, averaged: bool = False) -> dict:
    """The network's variables for `model.apply`; `averaged` takes the parameters' average where one is kept."""
    collections = {
        "params": state.ema if averaged and state.ema else state.params,
        "batch_stats": state.batch_stats,
        **state.constants,
    }
    return {name: tree for name, tree in collections.items() if tree}


def update(state: TrainState, grads, batch_stats, tx, ema_decay: float = 0.0) -> TrainState:
    """The state after one step of the optax transformation `tx`; `ema` moves to decay * ema + (1 - decay) * params.

    Parameters that `grads` lacks are frozen: they, and their average, stay as they are to the bit.
    """
    before = part_of(state.params, grads)
    updates, opt_state = tx.update(grads, state.opt_state, before)
    after = optax.apply_updates(before, updates)
    params, ema = merged(state.params, after), state.ema
    if ema:
        ema = merged(ema, optax.incremental_update(after, part_of(ema, grads), 1 - ema_decay))
    return state._replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
