"""Constants of a network: collections that are fitted before training and then stay as they are.

A decoder declares them (`Decoder.constants`), a command of its own makes them and `save`s them to a directory, and
config.constants_from names that directory. The equalizers' statistics are constants too, but a run measures those
itself.
"""

import pathlib
from typing import Any

import jax
from flax import traverse_util

from se_jax import run


def save(workdir, constants: dict, facts: dict) -> None:
    """Writes constants, {collection: nested dicts of arrays}, and what is known of them.

    Args:
      facts: JSON values; among them `classes` (their names) and the decoder's `facts()`, which `load` compares.
    """
    arrays, text = (pathlib.Path(workdir) / name for name in run.CONSTANTS)
    run.write_arrays(arrays, _flat(constants))
    run.write_json(text, facts)


def load(path, model, names) -> dict:
    """The constants that a network declares, from the directory `path`, as nested dicts of numpy arrays.

    Args:
      path: config.constants_from. model: the Segmenter. names: of the data set's classes.

    Raises:
      ValueError: the option is empty, or the constants are of other classes or another decoder.
      FileNotFoundError: none there.
    """
    collections, command = ", ".join(model.constants), "; ".join(sorted(set(model.constants.values())))
    if not path:
        raise ValueError(
            f"constants_from is empty: {type(model.decoder).__name__} needs constants ({collections}) fitted to the "
            f"training labels. Run {command}, then set --config.constants_from=DIR"
        )
    arrays, text = (pathlib.Path(path) / name for name in run.CONSTANTS)
    if not (arrays.exists() and text.exists()):
        raise FileNotFoundError(f"constants_from={path}: {arrays} or {text.name} is missing; run {command}")
    facts = run.read_json(text)
    expected = {"classes": (list(names), "config.data")}
    expected |= {name: (value, f"model.decoder.{name}") for name, value in model.decoder.facts().items()}
    for what, (wanted, option) in expected.items():
        found = facts.get(what)
        if found != wanted:
            found, wanted = (f"{len(x)} {x[:3]}" if isinstance(x, list) else x for x in (found, wanted))
            raise ValueError(
                f"constants_from={path}: fitted for {what} {found}, but this run has {wanted} ({option}); fit again: "
                f"{command}"
            )
    return traverse_util.unflatten_dict(run.read_arrays(arrays), sep="/")


def _flat(tree: dict) -> dict[str, Any]:
    """{'collection/module/name': array} of nested dicts."""
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def place(variables: dict, constants: dict) -> dict:
    """`variables` with the constants in the place of their initial values, laid out as those.

    Raises:
      ValueError: the network has no such variables; names what differs.
    """
    initial = {name: variables.get(name, {}) for name in constants}
    have, given = _flat(initial), _flat(constants)
    differing = [
        name for name in have | given if name not in have or name not in given or have[name].shape != given[name].shape
    ]
    if differing:
        raise ValueError(f"constants do not fit the network: {', '.join(sorted(differing))}")
    return variables | jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), initial, constants)
