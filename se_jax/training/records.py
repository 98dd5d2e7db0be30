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
from se_jax.progress import clock

LOOKED_AT = 100  # images, whose sizes are told


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


def step_line(step: int, steps: int, values: dict, images: float, rate: float) -> str:
    """The line of progress after a step: losses, images a second, the time left at `rate` steps a second."""
    losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name.startswith("loss"))
    accuracy = f"  accuracy {100 * values['accuracy']:.1f} %" if "accuracy" in values else ""
    pace = f"{images:.1f} images a second  {clock((steps - step) / rate)} left"
    return f"step {step}/{steps}  {losses}{accuracy}  {pace}"


def data_line(config, data) -> str:
    """How large images are, and what training makes of them; sizes are width x height."""
    count, options = len(data.train), config.data
    sizes = []
    for index in range(0, count, -(-count // LOOKED_AT)):
        with contextlib.suppress(ValueError):  # that a file cannot be read is said when it is
            sizes.append(data.train.size(index))
    heights, widths = (sorted(sides) for sides in zip(*sizes, strict=True)) if sizes else ([0], [0])
    smallest, largest = (f"{w}x{h}" for w, h in ((widths[0], heights[0]), (widths[-1], heights[-1])))
    middle = f"{widths[len(widths) // 2]}x{heights[len(heights) // 2]}"
    images = smallest if smallest == largest else f"{smallest} to {largest}, typically {middle}"
    fitted = f", fitted to {options.scale[0]}x{options.scale[1]}" if options.scale else ""
    crop = f"crop {options.crop[1]}x{options.crop[0]}"
    repeated = "" if data.repeats is None else f" ({data.repeats.sum():.0f} an epoch, as rare classes are repeated)"
    epochs = config.num_steps * options.batch_size / max(count, 1)
    return (
        f"{count} images for training{repeated}, {len(data.val)} for validation: {images}{fitted}, {crop}; "
        f"{options.batch_size} a step, {epochs:.3g} times each in {config.num_steps} steps"
    )


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
    """Writes versions, devices, parameter count, FLOPs of a step on all devices as XLA counts them.

    What is in a loop counts once: the parts of an accumulated step, on a CPU gradients of kernels (`models.cpu.conv`).
    """
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
