"""Where the weights of a new run come from, if not from chance."""

import pathlib

import jax

from se_jax import checkpoints
from se_jax.importers.convert import load


def start_from(path, model, variables: dict) -> dict:
    """`variables` with the weights of a run or an import (a directory) or of a PyTorch checkpoint (a file).

    Raises:
      FileNotFoundError: nothing of the kind there. ValueError: it does not fit the network; names what differs.
    """
    if not pathlib.Path(path).is_file():
        return checkpoints.init_from(path, variables, model.constants)
    imported = load(path, model.with_equalizer(mode="none"), variables)
    return jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), variables, imported.variables)
