"""What a run tells of itself while it trains: its history, its environment, what calibration measured."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform

import jax
from absl import logging

from se_jax import run
from se_jax.equalizer import calibrate


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient stopped being a finite number."""


def average(recent: list[dict], metrics, step: int, store) -> dict[str, float]:
    """Means of what the last steps, up to `step`, measured; raises NonFiniteLoss at the first that is not finite.

    Args:
      recent: what each step measured (see `step.make_train_step`), on the host. metrics: whose states it holds.
      store: the run's Checkpoints.
    """
    computed = []
    for back, measured in zip(range(len(recent) - 1, -1, -1), recent, strict=True):
        values = {name: float(value) for name, value in measured.items() if name != "metrics"}
        if not all(math.isfinite(value) for value in values.values()):
            store.wait()
            parts = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
            good = "there is none yet" if store.last is None else f"step {store.last} in {store.folder}"
            raise NonFiniteLoss(
                f"training diverged at step {step - back}: {parts}. Last good checkpoint: {good}. "
                "Try a lower optimizer.learning_rate, or look for bad input"
            )
        for metric, state in zip(metrics, measured["metrics"], strict=True):
            values |= metric.compute(state)
        computed.append(values)
    means = {name: sum(values[name] for values in computed) / len(computed) for name in computed[0]}
    return means | {"learning_rate": computed[-1]["learning_rate"]}


class History:
    """history.jsonl: one JSON object a line, {"step": ..., name: number, ...}; lines after step `start` are cut off.

    Raises:
      ValueError: a line is damaged.
    """

    def __init__(self, path: pathlib.Path, start: int):
        self.path = path
        lines = [line for line in run.read_history(path) if line["step"] <= start] if path.exists() else []
        if start and not lines:
            logging.warning("%s holds nothing up to step %d; its curves begin there", path, start)
        run.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def append(self, step: int, values: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def write_equalizer(workdir: pathlib.Path, config, rows) -> None:
    """Writes what calibration measured, and prints the table."""
    run.write_json(
        workdir / run.EQUALIZER, {**config.model.equalizer, "rows": [dataclasses.asdict(row) for row in rows]}
    )
    print(calibrate.table(rows))


def write_environment(workdir: pathlib.Path, mesh, state, compiled) -> None:
    """Writes versions, devices, parameter count, FLOPs of a step on all devices."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "clu", "ml-collections", "numpy")
    names += ("tensorflow-cpu", "tensorflow")  # the one or the other
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    content = {
        "versions": versions,
        "platform": platform.platform(),
        "devices": {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind, "mesh": dict(mesh.shape)},
        "processes": jax.process_count(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "flops_per_step": (compiled.cost_analysis() or {}).get("flops", math.nan) * mesh.size,
    }
    run.write_json(workdir / run.ENVIRONMENT, content)
