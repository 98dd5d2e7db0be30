"""The config of a run, workdir/config.json: written once, compared whenever the run goes on."""

import json
import pathlib
import shlex
from typing import Any

import jax

from se_jax import run
from se_jax.config import stored
from se_jax.config.complete import complete
from se_jax.config.types import ConfigDict

# A run may go on with other values of these: they change where it reads and what it reports, not what it computes.
MAY_DIFFER = (
    "data.dir",
    "data.train_dirs",
    "data.val_dirs",
    "data.cache",
    "log",
    "checkpoint",
    "eval.batch_size",
    "mesh",
    "multihost",
    "multihost_timeout",
)


class ConfigMismatch(ValueError):
    """The workdir holds a run of another config."""


def check(workdir, config) -> None:
    """Makes sure that a run begun in `workdir` had the same config.

    Raises:
      ConfigMismatch: it had another one, up to `MAY_DIFFER`; shows the difference.
    """
    if (pathlib.Path(workdir) / run.CONFIG).exists():
        theirs, ours = (json.loads(complete(each).to_json()) for each in (load(workdir), config))
        differing = [key for key in _differences(theirs, ours) if not _is_under(key, MAY_DIFFER)]
        if differing:
            lines = [f"{key}: {_at(theirs, key)!r} -> {_at(ours, key)!r}" for key in differing]
            raise ConfigMismatch(
                f"{workdir} holds a run of another config; give another --workdir, or the config of that run.\n"
                "Option: in the workdir -> now\n  "
                + "\n  ".join(lines)
                + _from_its_weights(workdir, theirs, ours, differing)
            )


def _from_its_weights(workdir, theirs: dict, ours: dict, differing: list[str]) -> str:
    """The command that begins another run from the weights of this one, as for a longer schedule; '' if none does."""
    if "num_steps" not in differing or any("." in key and _at(ours, key) == MISSING for key in differing):
        return ""
    changes = {key: _at(ours, key) for key in differing} | {"init_from": str(workdir)}
    if theirs.get("init_skip"):
        changes["init_skip"] = ""
    flags = [f"--config={pathlib.Path(workdir) / run.CONFIG}", f"--workdir={str(workdir).rstrip('/')}_longer"]
    flags[1:1] = [f"--config.{key}={_literal(value)}" for key, value in changes.items()]
    return (
        f"\nThe rate of every step depends on num_steps, {theirs['num_steps']} here: with another number it is another "
        f"run, which can start from this one's weights:\n  python -m se_jax.main {shlex.join(flags)}"
    )


def _literal(value) -> str:
    """A JSON value as the command line takes it."""
    return str(tuple(value)) if isinstance(value, list) else str(value)


def write(workdir, config) -> None:
    """Writes `workdir/config.json`: from now on the workdir holds a run of this config."""
    if jax.process_index() == 0:
        run.write_json(pathlib.Path(workdir) / run.CONFIG, json.loads(config.to_json()))


def load(workdir) -> ConfigDict:
    """The config of the run in `workdir`, with the defaults of options that its version did not have.

    Sequences come back as tuples.

    Raises:
      FileNotFoundError: there is no run. ValueError: the file holds no config.
    """
    path = pathlib.Path(workdir) / run.CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {workdir} is no workdir of a run")
    return stored.read(path)


MISSING = "(not set)"


def _differences(theirs, ours, path="") -> list[str]:
    """Dotted names of the options that differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*theirs, *(key for key in ours if key not in theirs)]
        pairs = [(f"{path}.{key}".lstrip("."), theirs.get(key, MISSING), ours.get(key, MISSING)) for key in keys]
        return [difference for key, their, our in pairs for difference in _differences(their, our, key)]
    return [] if theirs == ours else [path]


def _at(config: Any, option: str):
    for key in option.split("."):
        config = config.get(key, MISSING) if isinstance(config, dict) else MISSING
    return config


def _is_under(key: str, prefixes) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)
