"""Evaluation of a network over a data set: every image once, on any number of devices, exactly counted. An entry point.

python -m se_jax.evaluate --workdir=DIR [--checkpoint=best|last] [--config.eval.tta=True] [--config.data.dir=DIR]
    [--config.eval.mode=slide --config.eval.window="(512, 512)" --config.eval.stride="(341, 341)"]
    [--submission=DIR]

It prints the per-class table and leaves in the workdir evaluation.json, evaluation.html (a page with the confusion
matrix and each class's worst images) and the arrays of that page; report.html stays that of the training run. With
--submission nothing is scored: see `se_jax.submission`.

Batches hold images of one size; `eval.batch_size` above 1 pays where a data set has few sizes. Of the places in batches
of 2, 4, 8 and 16, the 616 sizes of ADE20K's 2000 validation images leave 22, 46, 67 and 82 % to fillers, which cost as
much as images and count for nothing; how many there were is printed.

What happens to an image, and what that costs in compilations and memory, stands in `se_jax.inference`.
"""

import dataclasses
import json
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from se_jax import inference, metrics, parallel, report, worst
from se_jax.worst import Worst


def batches(source, labels, config, mesh, on_error):
    """`data_pipelines.eval_batches` of this process; every device of `mesh` has its share of a batch."""
    import data_pipelines  # only here: it brings tensorflow

    devices = mesh.size
    batch_size = -(-config.batch_size // devices) * devices  # every device needs its share; fillers count for nothing
    return data_pipelines.eval_batches(
        source,
        labels,
        batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_error=on_error,
    )


def evaluate(model, variables, source, labels, config, mesh, *, on_error: str = "stop"):
    """What a model makes of every image of `source`, each exactly once, at the labels' own size.

    Batches hold images of one size. Counts are int32 on the device for a batch, int64 on the host for the total: the
    same on any number of devices. How many programs were compiled, in this process so far, is logged at the end.

    Args:
      model, variables: a Segmenter and what its `apply` takes, replicated or sharded over `mesh`, or on the host.
      source, labels: `data.val` and `data.labels` of `data_pipelines.build`.
      config: `config.eval`: batch_size (rounded up to a multiple of the devices) and the options of the protocol.
      on_error: "stop" or "skip" at an image that cannot be read.

    Returns:
      An Evaluation, the same in every process.

    Raises:
      ValueError: an option of the protocol cannot be, or the data set has another number of classes than the network.
    """
    if model.num_classes != labels.num_classes:
        raise ValueError(f"the network has {model.num_classes} classes, but the data set has {labels.num_classes}")
    programs = inference.build(model, inference.protocol(config), mesh)
    variables = _on_devices(variables, mesh)
    total = np.zeros((labels.num_classes, labels.num_classes), np.int64)
    found = Evaluation(total, Worst(labels.num_classes))
    waiting = None  # one batch is fetched while the next one is computed
    for batch in batches(source, labels, config, mesh, on_error):
        counts = programs.count(variables, batch)
        found = found.plus(waiting)
        waiting = counts
    found = found.plus(waiting)
    logging.info("Evaluated %d images, %d fillers; %s", found.images, found.fillers, compilations(programs))
    return found


class Evaluation(NamedTuple):
    """What `evaluate` finds.

    confusion: int64 [K, K], rows = label, columns = prediction. worst: each class's worst images.
    images, fillers: places in batches that held an image, and that held none (or one that could not be read).
    """

    confusion: np.ndarray
    worst: Worst
    images: int = 0
    fillers: int = 0

    def plus(self, counts: dict | None) -> "Evaluation":
        """With the counts of one more batch, which are fetched from the devices."""
        if counts is None:
            return self
        counts = jax.device_get(counts)
        self.worst.add(counts["index"], counts["areas"])
        images = int((counts["index"] >= 0).sum())
        fillers = self.fillers + len(counts["index"]) - images
        return Evaluation(self.confusion + counts["confusion"], self.worst, self.images + images, fillers)


def _on_devices(variables, mesh):
    """The same, with what lies on the host copied to every device, once instead of at every use."""
    everywhere = parallel.replicated(mesh)
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x, everywhere), variables)


def compilations(programs: inference.Inference) -> str:
    """How many programs an Inference has compiled, in words."""
    counts = programs.compilations
    parts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{counts.total()} compilations ({parts})"


def result(confusion, names, **extra) -> dict:
    """A confusion matrix as what metrics.json holds: fractions, by class name; None for a class that never occurs."""
    scores = metrics.scores(confusion)

    def number(value):
        return float(value) if np.isfinite(value) else None

    return {
        **extra,
        **{key: number(scores[key]) for key in ("miou", "macc", "aacc")},
        **{key: {n: number(v) for n, v in zip(names, scores[key], strict=True)} for key in ("iou", "acc")},
    }


def table(result: dict) -> str:
    """The per-class table of a `result`, in percent."""

    def percent(value):
        return f"{'-' if value is None else format(100 * value, '.2f'):>7}"

    width = max(len(name) for name in (*result["iou"], "all pixels"))
    lines = [f"{'class':<{width}}  {'IoU %':>7}  {'Acc %':>7}", "-" * (width + 18)]
    lines += [f"{n:<{width}}  {percent(v)}  {percent(result['acc'][n])}" for n, v in result["iou"].items()]
    lines += ["-" * (width + 18), f"{'mean':<{width}}  {percent(result['miou'])}  {percent(result['macc'])}"]
    return "\n".join(lines + [f"{'all pixels':<{width}}  {'':>7}  {percent(result['aacc'])}"])


# ---- What a run leaves for prediction and for the report ----


def measure(model, variables, data, config, mesh, path, **said) -> dict:
    """`evaluate` over `data.val`, as `config` says: what metrics.json holds, with `said` in it.

    The first process writes the confusion matrix to `path`.
    """
    found = evaluate(model, variables, data.val, data.labels, config.eval, mesh, on_error=config.data.on_error)
    if jax.process_index() == 0:
        write_confusion(path, found.confusion, data.labels)
    names = data.labels.names
    table = {"worst": found.worst.table(names, data.val)}
    return result(found.confusion, names, **said, images=found.images, fillers=found.fillers) | table


def write_labels(workdir, labels) -> None:
    """Write class names and palette to `workdir/labels.json`, so that predicting needs no data set."""
    content = {"names": list(labels.names), "palette": np.asarray(labels.palette).tolist()}
    (pathlib.Path(workdir) / "labels.json").write_text(json.dumps(content, indent=1) + "\n")


def write_confusion(path, confusion, labels) -> None:
    """Write a confusion matrix to an .npz for the report: int64 [K, K], names [K], palette [K, 3]."""
    np.savez_compressed(path, confusion=confusion, names=np.asarray(labels.names), palette=labels.palette)


def spread(count: int, wanted: int = 6) -> list[int]:
    """`wanted` indices, or all, evenly spread over `count` images."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()


def write_pictures(files: dict, model, variables, source, labels, config, mesh, *, on_error: str = "stop") -> None:
    """Write images, truths and predictions to .npz files for the report. `files`: {path: indices in `source`}.

    Keys: image_i [h, w, 3], truth_i and prediction_i [h, w] (train ids, 255 = ignored), palette [K, 3]; names [K].
    In a run of several processes every process must call it; the first one writes.
    """
    import data_pipelines

    gather = parallel.jit(lambda v: v, out_shardings=parallel.replicated(mesh))
    variables = jax.device_get(gather(variables))
    if jax.process_index() != 0:
        return
    programs = inference.build(model, inference.protocol(config))
    variables = _on_devices(variables, programs.mesh)
    for path, indices in files.items():
        arrays = {"palette": np.asarray(labels.palette, np.uint8), "names": np.asarray(labels.names)}
        for i in sorted(set(indices)):
            try:
                image, truth = data_pipelines.read_example(source, labels, i)
            except data_pipelines.DataError:
                if on_error == "stop":
                    raise
                continue
            mask = programs.class_ids(variables, image[None])[0]
            arrays |= {f"image_{i}": image, f"truth_{i}": truth, f"prediction_{i}": mask}
        np.savez_compressed(path, **arrays)


# ---- Entry point ----


def run(config, variables, workdir, checkpoint: str) -> None:
    """Evaluate a trained network as `config` says; prints the table and leaves `workdir/evaluation*`."""
    import data_pipelines
    from se_jax.models import build

    mesh, workdir = parallel.make_mesh(config), pathlib.Path(workdir)
    data = data_pipelines.build(config.data)
    model = build(config.model)
    protocol = inference.protocol(config.eval)
    variables = _on_devices(variables, mesh)
    said = {"checkpoint": checkpoint, "protocol": dataclasses.asdict(protocol), "data_set": _data_set(config)}
    outcome = measure(model, variables, data, config, mesh, workdir / report.EVALUATION["confusion"], **said)
    counts = compilations(inference.build(model, protocol, mesh))
    write_pictures(
        {workdir / report.EVALUATION["worst"]: worst.indices(outcome)},
        *(model, variables, data.val, data.labels, config.eval, mesh),
        on_error=config.data.on_error,
    )
    if jax.process_index() == 0:
        path = workdir / report.EVALUATION["metrics"]
        path.write_text(json.dumps(outcome, indent=1) + "\n")
        print(table(outcome))
        print(f"\n{outcome['images']} images, {outcome['fillers']} fillers of batches, {counts}")
        print(f"written to {path} and {report.write_evaluation(workdir)}")


def _data_set(config) -> dict:
    """What a result says of the data it was measured on."""
    return {key: config.data.get(key) for key in ("name", "dir", "val_split")}


def main(argv: list[str]) -> None:
    """Command line: the run's own config is the default of every --config.a.b=value flag."""
    from absl import app, flags
    from ml_collections import config_flags

    from se_jax import checkpoints, submission

    logging.set_verbosity(logging.ERROR)  # orbax tells every step of its work
    for holder in (flags.FLAGS, given := flags.FlagValues()):
        flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=holder)
        flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which of its checkpoints.", flag_values=holder)
        flags.DEFINE_string(
            "submission", None, "New directory for predictions as the benchmark wants them.", flag_values=holder
        )
    given(argv, known_only=True)  # a first look: the config flags can only be defined from the run's config
    if given.workdir is None:
        sys.exit("se_jax.evaluate: name the run to evaluate: --workdir=DIR")

    def work(_):
        try:
            config = overridden.value
            parallel.start_multihost(config.multihost)
            _, variables = checkpoints.load_for_inference(given.workdir, given.checkpoint)
            if given.submission is None:
                run(config, variables, given.workdir, given.checkpoint)
            else:
                submission.run(config, variables, given.submission)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.evaluate: {error}")

    try:
        config = _complete(checkpoints.load_config(given.workdir))
        config.multihost = False  # whatever the run did: where it is evaluated decides
        overridden = config_flags.DEFINE_config_dict("config", _open_ended(config))
        app.run(work, argv=argv)
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(f"se_jax.evaluate: a --config option that the run does not have, or of another type: {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"se_jax.evaluate: {error}")


def _complete(config):
    """The same config, in which a run made before an option of the protocol existed has its default."""
    for field in dataclasses.fields(inference.Protocol):
        if field.name not in config.eval:
            config.eval[field.name] = field.default
    return config


def _open_ended(config):
    """The same config, whose options that are None (so without a type) take any value on the command line."""
    from ml_collections import ConfigDict, config_dict

    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _open_ended(value)
        elif value is None:
            config[key] = config_dict.placeholder(object)
    return config


if __name__ == "__main__":
    main(sys.argv)
