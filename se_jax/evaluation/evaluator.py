"""Evaluation of a network over a data set: every image once, on any number of devices, exactly counted.

Batches hold images of one size; `eval.batch_size` above 1 pays where a data set has few sizes. Of the places in batches
of 2, 4, 8 and 16, the 616 sizes of ADE20K's 2000 validation images leave 22, 46, 67 and 82 % to fillers, which cost as
much as images and count for nothing; how many there were is printed.

What happens to an image, and what that costs in compilations and memory, stands in `se_jax.evaluation.inference`.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from se_jax import parallel, run
from se_jax.config.check import check
from se_jax.evaluation import inference
from se_jax.evaluation.boundary_iou import BoundaryIoU
from se_jax.evaluation.compilations import announcement
from se_jax.evaluation.image_table import ImageTable
from se_jax.evaluation.images import visible
from se_jax.evaluation.metrics import ConfusionMatrix, Metric
from se_jax.evaluation.protocol import protocol
from se_jax.evaluation.worst_images import WorstImages
from se_jax.progress import Progress, say
from se_jax.report.results import mean_of

SEGMENTS = 11  # masks of one image in the report


class Evaluation(NamedTuple):
    """What `evaluate` finds.

    totals: of the metrics, on the host. images, fillers: places in batches that held an image, and that held none (or
    one that could not be read).
    """

    metrics: tuple[Metric, ...]
    totals: tuple[Any, ...]
    images: int = 0
    fillers: int = 0

    def plus(self, counts: tuple | None) -> "Evaluation":
        """With the counts of one more batch, which are fetched from the devices."""
        if counts is None:
            return self
        index, states = jax.device_get(counts)
        added = zip(self.metrics, self.totals, states, strict=True)
        totals = tuple(metric.add(total, state, index) for metric, total, state in added)
        images = int((index >= 0).sum())
        return Evaluation(self.metrics, totals, self.images + images, self.fillers + len(index) - images)

    def result(self, **said) -> dict:
        """What metrics.json holds: `said`, the numbers of images and fillers, and all that the metrics compute."""
        computed = {}
        for metric, total in zip(self.metrics, self.totals, strict=True):
            computed |= metric.compute(total)
        return {**said, "images": self.images, "fillers": self.fillers, **computed}

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """{name of an .npz file: its arrays} of all metrics."""
        files = {}
        for metric, total in zip(self.metrics, self.totals, strict=True):
            files |= metric.arrays(total)
        return files

    def tables(self) -> dict[str, list[list]]:
        """{name of a .csv file: its rows} of all metrics."""
        files = {}
        for metric, total in zip(self.metrics, self.totals, strict=True):
            files |= metric.tables(total)
        return files


def default_metrics(labels, source, config) -> tuple[Metric, ...]:
    """The confusion matrix with its scores, each class's worst images, and what else `config`, config.eval, asks for.

    source, labels: `data.val` and `data.labels` of `data_pipelines.build`.
    """
    names, palette = tuple(labels.names), tuple(map(tuple, np.asarray(labels.palette).tolist()))
    metrics = (ConfusionMatrix(names, palette), WorstImages(names, source.image_name))
    if config.get("per_image", False):
        metrics += (ImageTable(names, source.image_name, len(source)),)
    if config.get("boundary_iou", False):
        metrics += (BoundaryIoU(names),)
    return metrics


def places(config, mesh) -> int:
    """Images of a batch of all processes: every device needs its share, and fillers count for nothing."""
    return -(-config.batch_size // mesh.size) * mesh.size


def batches(source, labels, config, mesh, on_error, planned=lambda sizes: None):
    """`data_pipelines.eval_batches` of this process; every device of `mesh` has its share of a batch."""
    import data_pipelines  # only here: it brings tensorflow

    return data_pipelines.eval_batches(
        source,
        labels,
        places(config, mesh),
        planned=planned,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_error=on_error,
    )


def nothing() -> None:
    """What is done before each batch or picture by default."""


def evaluate(
    model,
    variables,
    source,
    labels,
    config,
    mesh=None,
    *,
    metrics: Sequence[Metric] = (),
    on_error: str = "stop",
    each: Callable[[], None] = nothing,
) -> Evaluation:
    """What a model makes of every image of `source`, each exactly once, at the labels' own size.

    Batches hold images of one size. Counts are int32 on the device for a batch, int64 on the host for the total: the
    same on any number of devices. How many networks there are to compile is logged before the first batch, and how many
    programs were compiled, in this process so far, at the end.

    Args:
      model, variables: a Segmenter and what its `apply` takes, replicated or sharded over `mesh`, or on the host.
      source, labels: `data.val` and `data.labels` of `data_pipelines.build`.
      config: `config.eval`: batch_size (rounded up to a multiple of the devices) and the options of the protocol.
      mesh: of `parallel.make_mesh`; by default one of all devices.
      metrics: what is measured; `default_metrics` where none are given.
      on_error: "stop" or "skip" at an image that cannot be read.
      each: called before every batch, as often in every process; what it raises ends the evaluation.

    Returns:
      An Evaluation, the same in every process.

    Raises:
      ValueError: an option of the protocol cannot be, or the data set has another number of classes than the network.
    """
    check(config, "eval")
    if model.num_classes != labels.num_classes:
        raise ValueError(f"the network has {model.num_classes} classes, but the data set has {labels.num_classes}")
    mesh = parallel.make_mesh() if mesh is None else mesh
    metrics = tuple(metrics) or default_metrics(labels, source, config)
    programs = inference.build(model, protocol(config), mesh)
    variables = _on_devices(variables, mesh)
    found = Evaluation(metrics, tuple(metric.empty() for metric in metrics))
    shown = Progress("evaluated", len(source), shown=jax.process_index() == 0)
    waiting, compiling = None, []  # one batch is fetched while the next one is computed

    def planned(sizes):
        known = programs.logit_sizes
        logging.info("Evaluating %s", announcement(programs.protocol, sizes, model.size_multiple, known))
        compiling.extend(programs.compile_ahead(variables, places(config, mesh), sizes))

    try:
        for batch in batches(source, labels, config, mesh, on_error, planned):
            each()
            counts = programs.count(metrics, variables, batch)
            found = found.plus(waiting)
            waiting = counts
            shown(min(found.images, len(source) - 1))
        found = found.plus(waiting)
    finally:
        for program in compiling:
            program.cancel()
    shown(len(source))
    logging.info("Evaluated %d images, %d fillers; %s", found.images, found.fillers, compilations(programs))
    return found


def _on_devices(variables, mesh):
    """The same, with what lies on the host or on other devices copied to every one, once instead of at every use."""
    everywhere, devices = parallel.replicated(mesh), set(mesh.devices.flat)

    def copied(x):
        there = isinstance(x, jax.Array) and x.sharding.device_set == devices
        return x if there else jax.device_put(x, everywhere)

    return jax.tree.map(copied, variables)


def compilations(programs: inference.Inference) -> str:
    """How many programs an Inference has compiled, in words."""
    counts = programs.compilations
    parts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{counts.total()} compilations ({parts})"


COLUMNS = {"IoU %": ("iou", "miou"), "Acc %": ("acc", "macc"), "BIoU %": ("boundary_iou", "boundary_miou")}


def table(result: dict) -> str:
    """The per-class table of a `result`, in percent; a mean over fewer classes says so. BIoU is boundary IoU."""
    columns = {head: keys for head, keys in COLUMNS.items() if keys[0] in result}

    def cells(values) -> str:
        return "".join(f"  {'-' if value is None else format(100 * value, '.2f'):>7}" for value in values)

    means = {}  # what it is called -> the columns; a class that is predicted only has an IoU of 0, and no accuracy
    for head, (values, _) in columns.items():
        means.setdefault(mean_of(result[values]), []).append(head)
    width = max(len(name) for name in (*result["iou"], "all pixels", *means))
    rule = "-" * (width + 9 * len(columns))
    lines = [f"{'class':<{width}}" + "".join(f"  {head:>7}" for head in columns), rule]
    for name in result["iou"]:
        lines.append(f"{name:<{width}}" + cells(result[values][name] for values, _ in columns.values()))
    lines.append(rule)
    for name, heads in means.items():
        own = (cells([result[mean]]) if head in heads else " " * 9 for head, (_, mean) in columns.items())
        lines.append(f"{name:<{width}}" + "".join(own))
    pixels = (cells([result["aacc"]]) if head == "Acc %" else " " * 9 for head in columns)
    return "\n".join([*lines, f"{'all pixels':<{width}}" + "".join(pixels)])


# ---- What an evaluation leaves in a workdir ----


def measure(model, variables, data, config, mesh, metrics, prefix, each=nothing, **said) -> dict:
    """`evaluate` over `data.val`, as `config` says: what metrics.json holds, with `said` in it.

    The first process writes the metrics' arrays and tables to files whose paths start with `prefix`. each: called
    before every batch.
    """
    options = {"metrics": metrics, "on_error": config.data.on_error, "each": each}
    found = evaluate(model, variables, data.val, data.labels, config.eval, mesh, **options)
    if jax.process_index() == 0:
        for name, arrays in found.arrays().items():
            run.write_arrays(f"{prefix}{name}.npz", arrays)
        for name, rows in found.tables().items():
            run.write_table(f"{prefix}{name}.csv", rows)
    return found.result(**said)


def examples(metrics: Sequence[Metric], result: dict) -> list[int]:
    """Images that the metrics want to be shown."""
    return sorted({index for metric in metrics for index in metric.examples(result)})


def spread(count: int, wanted: int = 6) -> list[int]:
    """`wanted` indices, or all, evenly spread over `count` images."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()


def write_pictures(
    files: dict,
    model,
    variables,
    source,
    labels,
    config,
    mesh,
    *,
    on_error: str = "stop",
    segments=None,
    each: Callable[[], None] = nothing,
) -> None:
    """Write images, truths and predictions to .npz files for the report. `files`: {path: indices in `source`}.

    Keys: image_i [h, w, 3], truth_i and prediction_i [h, w] (train ids, 255 = ignored), palette [K, 3]; names [K].
    To `segments`, a path, go the masks that the first image's prediction is made of, where it is: image [h, w, 3], mask
    uint8 [n, h, w] of 0 to 255, class_id and score [n]; and palette and names. In a run of several processes every
    process must call it; the first one writes.
    """
    import data_pipelines

    gather = parallel.jit(lambda v: v, out_shardings=parallel.replicated(mesh))
    variables = jax.device_get(gather(variables))
    if jax.process_index() != 0:
        return
    say("Predicting the pictures of the report")
    programs = inference.build(model, protocol(config))
    variables = _on_devices(variables, programs.mesh)
    for path, indices in files.items():
        arrays = {"palette": np.asarray(labels.palette, np.uint8), "names": np.asarray(labels.names)}
        for i in sorted(set(indices)):
            if jax.process_count() == 1:  # several would have to agree, and the others are done
                each()
            try:
                image, truth = data_pipelines.read_example(source, labels, i)
            except data_pipelines.DataError:
                if on_error == "stop":
                    raise
                continue
            mask = programs.class_ids(variables, image[None])[0]
            arrays |= {f"image_{i}": visible(image), f"truth_{i}": truth, f"prediction_{i}": mask}
            if segments and (found := programs.segments(variables, image, SEGMENTS)):
                found["mask"] = np.round(255 * found["mask"]).astype(np.uint8)
                found["image"] = visible(found["image"])
                run.write_arrays(segments, {key: arrays[key] for key in ("palette", "names")} | found)
            segments = None
        run.write_arrays(path, arrays)


def evaluate_run(config, variables, workdir, checkpoint: str, metrics: Sequence[Metric] = ()) -> dict:
    """Evaluates a trained network as `config` says; prints the table and leaves `workdir/evaluation*`.

    Args:
      config: the run's. variables: of its network. checkpoint: which one they are of, to be told.
    """
    import data_pipelines
    from se_jax.models import build
    from se_jax.report import pages

    check(config)
    mesh, workdir = parallel.make_mesh(config), pathlib.Path(workdir)
    data, model, how = data_pipelines.build(config.data), build(config.model), protocol(config.eval)
    metrics = tuple(metrics) or default_metrics(data.labels, data.val, config.eval)
    variables = _on_devices(variables, mesh)
    data_set = {key: config.data.get(key) for key in ("name", "dir", "val_split")}
    said = {"checkpoint": checkpoint, "protocol": dataclasses.asdict(how), "data_set": data_set}
    said |= {"warnings": list(data.warnings)} if data.warnings else {}
    outcome = measure(model, variables, data, config, mesh, metrics, workdir / f"{run.EVALUATION}_", **said)
    counts = compilations(inference.build(model, how, mesh))
    write_pictures(
        {workdir / f"{run.EVALUATION}_{run.WORST}": examples(metrics, outcome)},
        *(model, variables, data.val, data.labels, config.eval, mesh),
        on_error=config.data.on_error,
    )
    if jax.process_index() == 0:
        path = run.write_json(workdir / f"{run.EVALUATION}.json", outcome)
        print(*(f"WARNING: {warning}" for warning in data.warnings), sep="\n", end="\n" if data.warnings else "")
        print(table(outcome))
        print(f"\n{outcome['images']} images, {outcome['fillers']} fillers of batches, {counts}")
        print(f"written to {path} and {pages.write_evaluation(workdir)}")
    return outcome
