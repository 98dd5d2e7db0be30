"""Training in one call, with plain folders: `se_jax.train(out=..., model="uper/resnet50", data=..., steps=2000)`."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from se_jax import run
from se_jax.config import check, networks, options, own_data
from se_jax.config.types import ConfigDict
from se_jax.evaluation.predictor import Model, load
from se_jax.models import build
from se_jax.models.names import find_encoder, find_head
from se_jax.training.loop import train_and_evaluate

KEYS = ("train", "val", "classes", "ignore")
EXAMPLE = (
    '{"train": {"images": DIR, "masks": DIR}, "val": {"images": DIR, "masks": DIR}, '
    '"classes": {0: "background", 1: {"name": "car", "ids": [1, 2]}}, "ignore": [255]}'
)


def train(
    *,
    out,
    model: str | Sequence[Any],
    data: Mapping[str, Any] | str | os.PathLike,
    steps: int = 2000,
    weights: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Trains a network on folders of images and masks: the run of `python -m se_jax.main` in the workdir `out`.

    Called again with the same arguments it goes on from the last checkpoint. `out/config.json` is the config that
    reproduces the run: `python -m se_jax.main --config=out/config.json --workdir=DIR`.

    Args:
      out: the workdir.
      model: 'HEAD/ENCODER' of `se_jax.list_heads()` and `se_jax.list_encoders()`, or both as of `se_jax.create`.
      data: the directory of a data set in the layout of docs/labels.md, or {'train': {'images': folder, 'masks':
        folder}, 'val': likewise, 'classes': names, or {key: name or {'name', 'ids', 'color'}} in the order of the keys,
        which are the ids in the masks where no 'ids' are given, 'ignore': ids without a class}.
      steps: how many batches; eight images each by default.
      weights: to start from: a run's workdir, an import, a PyTorch checkpoint; config.init_from.
      changes: any option of se_jax/config/options.py by its name, e.g. {'optimizer.learning_rate': 0.02}.

    Returns:
      The trained network at its best checkpoint, as of `se_jax.load(out)`; its scores are in out/metrics.json.

    Raises:
      ValueError, OSError: what `train_and_evaluate` raises, and for arguments that cannot be; says what is expected.
    """
    parts = model.split("/") if isinstance(model, str) else list(model)
    if len(parts) != 2:
        raise ValueError(f"model is {model!r}; expected 'HEAD/ENCODER', e.g. 'uper/resnet50'")
    config = options.get_config()
    config.num_steps, config.init_from, config.data.batch_size = steps, str(weights), 8
    config = networks.combined(config, find_encoder(parts[1]), find_head(parts[0]))
    network = build(config.model)
    multiple = int(np.lcm(network.size_multiple, network.decoder.pad_to))
    config.eval.size_multiple = network.size_multiple
    config.eval.every_steps = config.checkpoint.every_steps = max(1, steps // 5)
    if isinstance(data, Mapping):
        images = _folders(config, data, pathlib.Path(out))
    else:
        images = pathlib.Path(own_data.folder(config, os.path.abspath(data)).data.dir) / config.data.image_dir / "train"
    own_data.sizes(config, images, multiple)
    for option, value in (changes or {}).items():
        _change(config, option, value)
    train_and_evaluate(config, out)
    return load(out)


def _folders(config: ConfigDict, data: Mapping[str, Any], out: pathlib.Path) -> str:
    """Puts separate folders into the config, and classes.json into `out`; returns the folder of training images."""
    if unknown := set(data) - set(KEYS):
        raise ValueError(f"data has {', '.join(map(repr, sorted(unknown)))}; expected {EXAMPLE}")
    for split in ("train", "val"):
        folders = data.get(split)
        if not isinstance(folders, Mapping) or set(folders) != {"images", "masks"}:
            raise ValueError(f"data[{split!r}] is {folders!r}; expected {EXAMPLE}")
        config.data[f"{split}_dirs"] = tuple(os.path.abspath(folders[kind]) for kind in ("images", "masks"))
    content = classes(data.get("classes"), data.get("ignore", ()))
    config.model.num_classes = len(content["classes"])
    config.data.update(name="folder", dir=os.path.abspath(out))
    run.write_json(run.make(out, "out") / own_data.CLASSES, content)
    return config.data.train_dirs[0]


def classes(given, ignore=()) -> dict[str, Any]:
    """What classes.json says (docs/labels.md) of classes given as of `train`.

    Raises:
      ValueError: they are given in another form.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = dict(enumerate(given))
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"data['classes'] is {given!r}; expected names, as in {EXAMPLE}")
    entries = {key: entry if isinstance(entry, Mapping) else {"name": entry} for key, entry in sorted(given.items())}
    for key, entry in entries.items():
        if "name" not in entry or set(entry) - {"name", "ids", "color"}:
            raise ValueError(
                f"data['classes'][{key!r}] is {dict(entry)!r}; expected a name, or 'name', 'ids' and 'color'"
            )
    content: dict[str, Any] = {
        "classes": [entry["name"] for entry in entries.values()],
        "ids": [list(entry.get("ids", [key])) for key, entry in entries.items()],
        "ignore": list(ignore),
    }
    if all("color" in entry for entry in entries.values()):
        content["palette"] = [list(entry["color"]) for entry in entries.values()]
    return content


def _change(config: ConfigDict, option: str, value) -> None:
    """Sets the option of that dotted name."""
    *above, last = option.split(".")
    try:
        node = functools.reduce(lambda each, key: each[key], above, config)
        known = last in node
    except (KeyError, TypeError, AttributeError):
        known, node = False, config
    if not known:
        raise ValueError(check.unknown(option, check.names(config)))
    with node.ignore_type():
        node[last] = ConfigDict(value) if isinstance(value, Mapping) else value
