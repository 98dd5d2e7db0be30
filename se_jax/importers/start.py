"""Where the weights of a new run come from, if not from chance."""

import importlib.util
import pathlib
from collections.abc import Sequence

import jax
from absl import logging
from flax import traverse_util

from se_jax import checkpoints, run, run_config
from se_jax.importers.convert import load
from se_jax.importers.skip import Skip

PACKAGE = "package:"  # in front of the name of an installed package and a file in it


def start_from(path, model, variables: dict, skip: str | Sequence[str] = "") -> dict:
    """`variables` with the weights of a run or an import (a directory) or of a PyTorch checkpoint (a file).

    Args:
      path: see `located`.
      skip: config.init_skip, which arrays keep the values that they have in `variables`; see `Skip`. They are logged.

    Raises:
      FileNotFoundError: nothing of the kind there. ValueError: it does not fit the network; names what differs. Or a
        name in `skip` is found in no parameter.
    """
    left_out, path = Skip(skip, model), located(path)
    arrays = ["/".join(key[1:]) for key in traverse_util.flatten_dict(variables)]
    if pathlib.Path(path).is_file():
        imported = load(path, model.with_equalizer(mode="none"), variables, skip=left_out).variables
        started = jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), variables, imported)
    else:
        started = checkpoints.init_from(path, variables, model.constants, skip=left_out, advice=left_out.advice)
    left_out.check(arrays)
    if skipped := sorted({array for array in arrays if left_out(array)}):
        logging.info("init_skip: %d arrays start from chance: %s", len(skipped), ", ".join(skipped))
    return started


def located(path) -> pathlib.Path:
    """The path that is given, or for 'package:NAME/FILE' that of a file in an installed package.

    Raises:
      FileNotFoundError: no such package is installed.
    """
    text = str(path)
    if not text.startswith(PACKAGE):
        return pathlib.Path(path)
    name, _, rest = text.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name else None
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{text}: no package {name!r} is installed; expected {PACKAGE}NAME/FILE")
    return pathlib.Path(next(iter(found.submodule_search_locations))) / rest


def is_folded(path) -> bool:
    """Whether the run or import in a directory, or at workdir/checkpoints/<step>, has its equalizers in its weights."""
    folder = located(path)
    if folder.parent.name == run.CHECKPOINTS:
        folder = folder.parent.parent
    return (folder / run.CONFIG).is_file() and run_config.load(folder).model.equalizer.mode == "folded"
