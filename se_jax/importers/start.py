"""Where the weights of a new run come from, if not from chance."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import logging
from flax import traverse_util

from se_jax import checkpoints, run, run_config
from se_jax.config.normalization import Normalization
from se_jax.importers import files
from se_jax.importers.convert import load, normalization
from se_jax.importers.packages import locate
from se_jax.importers.skip import Skip


def start_from(path, model, variables: dict, skip: str | Sequence[str] = "") -> dict:
    """`variables` with the weights of a run or an import (a directory), a PyTorch checkpoint (a file), or a package.

    Args:
      path: a directory, a file, or a name of `packages.PACKAGES`.
      skip: config.init_skip, which arrays keep the values that they have in `variables`; see `Skip`. They are logged.

    Raises:
      FileNotFoundError: nothing of the kind there. ValueError: it does not fit the network; names what differs. Or a
        name in `skip` is found in no parameter.
    """
    path, left_out = locate(path), Skip(skip, model)
    arrays = ["/".join(key[1:]) for key in traverse_util.flatten_dict(variables)]
    if path.is_file():
        imported = load(path, model.with_equalizer(mode="none"), variables, skip=left_out).variables
        started = jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), variables, imported)
    else:
        started = checkpoints.init_from(path, variables, model.constants, skip=left_out, advice=left_out.advice)
    left_out.check(arrays)
    if skipped := sorted({array for array in arrays if left_out(array)}):
        logging.info("init_skip: %d arrays start from chance: %s", len(skipped), ", ".join(skipped))
    return started


def normalization_of(path, model, size: tuple[int, int]) -> Normalization | None:
    """The (mean, std) of images that the weights to start from expect; None where what is there says nothing of it.

    Arguments as of `start_from`. size: (height, width) of images that the network takes.

    Raises:
      ValueError: the path is a package that is not installed, or a file that cannot be read.
    """
    path = locate(path)
    if path.is_file():
        plain = model.with_equalizer(mode="none")
        variables = jax.eval_shape(
            plain.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, plain.channels), jnp.float32)
        )
        return normalization(plain, files.read(path), variables)
    folder = _run_of(path)
    if (folder / run.CONFIG).is_file():
        return run_config.load(folder).model.normalization
    if (folder / run.IMPORT).is_file() and (found := run.read_json(folder / run.IMPORT).get("normalization")):
        mean, std = found
        return tuple(mean), tuple(std)
    return None


def _run_of(path) -> pathlib.Path:
    """The directory of the run of workdir/checkpoints/<step>; any other directory is its own."""
    folder = pathlib.Path(path)
    return folder.parent.parent if folder.parent.name == run.CHECKPOINTS else folder


def is_folded(path) -> bool:
    """Whether the run or import in a directory, or at workdir/checkpoints/<step>, has its equalizers in its weights."""
    folder = _run_of(path)
    return (folder / run.CONFIG).is_file() and run_config.load(folder).model.equalizer.mode == "folded"
