"""Whole-image evaluation: every image once, on any number of devices, exactly counted. Also an entry point.

python -m se_jax.evaluate --workdir=DIR [--checkpoint=best|last] [--config.eval.batch_size=2] [--config.data.dir=DIR]

The inference functions at the top are the reference protocol (mmsegmentation 1.2.2, `whole` mode), shared with predict.
"""

import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from se_jax import metrics, parallel
from se_jax.models.layers import resize
from se_jax.models.segmenter import normalize

# ---- Inference: image -> logits at the image's own size ----


def input_size(height: int, width: int, scale: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of the network's input: the largest of the image's shape whose sides fit into `scale`, long to long.

    `scale` is two numbers in any order, as in the reference's Resize(keep_ratio=True); None keeps the image's size.
    """
    if scale is None:
        return height, width
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def infer(model, variables, inputs, size: tuple[int, int]):
    """Normalised images [b, h, w, 3] -> float32 logits [b, *size, K].

    Two bilinear resizes, as in the reference: to the network input's size, then to `size`. One alone differs.
    """
    logits = model.apply(variables, inputs)["logits"]
    logits = resize(logits, inputs.shape[1:3], model.align_corners)
    return resize(logits, size, model.align_corners)


def class_logits(model, variables, images, scale: tuple[int, int] | None):
    """uint8 images [b, h, w, 3] (RGB) -> float32 logits [b, h, w, K] at the images' own size."""
    size = images.shape[1:3]
    inputs = images.astype(jnp.float32)
    if input_size(*size, scale) != size:
        inputs = jnp.clip(
            jnp.round(resize(inputs, input_size(*size, scale))), 0, 255
        )  # the reference resizes uint8 images
    return infer(model, variables, normalize(inputs), size)


def classify(model, variables, images, scale: tuple[int, int] | None):
    """uint8 images [b, h, w, 3] (RGB) -> uint8 class ids [b, h, w]."""
    return jnp.argmax(class_logits(model, variables, images, scale), axis=-1).astype(jnp.uint8)


def as_scale(config) -> tuple[int, int] | None:
    """`config.scale` (w, h) of an evaluation config, as a tuple or None.

    Raises:
      ValueError: it is neither None nor two positive integers.
    """
    scale = config.get("scale")
    if scale is None:
        return None
    if len(scale) != 2 or any(int(side) != side or side < 1 for side in scale):
        raise ValueError(f"eval.scale is {scale!r}; give two positive integers (width, height) or None (no resize)")
    return tuple(int(side) for side in scale)


# ---- Evaluation ----


@functools.lru_cache(maxsize=16)  # a run evaluates often: the compiled programs are kept from one time to the next
def _counter(model, scale, num_classes: int, mesh):
    def count(variables, image, label):
        return metrics.confusion_matrix(classify(model, variables, image, scale), label, num_classes)

    return parallel.jit(count, out_shardings=parallel.replicated(mesh))


@functools.lru_cache(maxsize=16)
def classifier(model, scale):
    """A compiled `f(variables, images) -> uint8 class ids`; one compilation an image size."""
    return parallel.jit(functools.partial(classify, model, scale=scale))


def _batches(source, labels, config, mesh, on_error):
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
    """Confusion matrix and scores of a model over every image of `source`, each exactly once, at the labels' own size.

    Batches hold images of one size, and a size is compiled once in a process: as many compilations as the data set has
    distinct image sizes. Counts are int32 on the device for a batch, int64 on the host for the total: the same matrix
    on any number of devices.

    Args:
      model, variables: a Segmenter and what its `apply` takes, replicated or sharded over `mesh`, or on the host.
      source, labels: `data.val` and `data.labels` of `data_pipelines.build`.
      config: `config.eval`: batch_size (rounded up to a multiple of the devices) and scale.
      on_error: "stop" or "skip" at an image that cannot be read.

    Returns:
      (confusion, scores): int64 [K, K], rows = label, columns = prediction; and `metrics.scores(confusion)`.
    """
    count = _counter(model, as_scale(config), labels.num_classes, mesh)
    total = np.zeros((labels.num_classes, labels.num_classes), np.int64)
    waiting = None  # one batch is fetched while the next one is computed
    for batch in _batches(source, labels, config, mesh, on_error):
        arrays = parallel.shard_batch(mesh, {"image": batch["image"], "label": batch["label"]})
        counts = count(variables, arrays["image"], arrays["label"])
        if waiting is not None:
            total += np.asarray(waiting)
        waiting = counts
    if waiting is not None:
        total += np.asarray(waiting)
    return total, metrics.scores(total)


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


def write_labels(workdir, labels) -> None:
    """Write class names and palette to `workdir/labels.json`, so that predicting needs no data set."""
    content = {"names": list(labels.names), "palette": np.asarray(labels.palette).tolist()}
    (pathlib.Path(workdir) / "labels.json").write_text(json.dumps(content, indent=1) + "\n")


def write_samples(
    path, model, variables, source, labels, config, mesh, *, count: int = 6, on_error: str = "stop"
) -> None:
    """Write images, truths and predictions of `count` images, evenly spread over `source`, to an .npz for the report.

    Keys: image_i [h, w, 3], truth_i and prediction_i [h, w] (train ids, 255 = ignored), palette [K, 3]; names [K].
    In a run of several processes every process must call it; the first one writes.
    """
    import data_pipelines

    gather = parallel.jit(lambda v: v, out_shardings=parallel.replicated(mesh))
    variables = jax.device_get(gather(variables))
    if jax.process_index() != 0:
        return
    predict = classifier(model, as_scale(config))
    arrays = {"palette": np.asarray(labels.palette, np.uint8), "names": np.asarray(labels.names)}
    for i in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)):
        try:
            image, truth = data_pipelines.read_example(source, labels, int(i))
        except data_pipelines.DataError:
            if on_error == "stop":
                raise
            continue
        mask = np.asarray(predict(variables, image[None])[0])
        arrays |= {f"image_{i}": image, f"truth_{i}": truth, f"prediction_{i}": mask}
    np.savez_compressed(path, **arrays)


# ---- Entry point ----


def run(config, variables, workdir, checkpoint: str) -> None:
    """Evaluate a trained network as `config` says; prints the table and writes `workdir/evaluation.json`."""
    import data_pipelines
    from se_jax.models import build

    mesh = parallel.make_mesh(config)
    data = data_pipelines.build(config.data)
    model = build(config.model)
    variables = jax.device_put(variables, parallel.replicated(mesh))
    confusion, _ = evaluate(model, variables, data.val, data.labels, config.eval, mesh, on_error=config.data.on_error)
    outcome = result(confusion, data.labels.names, checkpoint=checkpoint, images=len(data.val) - len(data.val.skipped))
    print(table(outcome))
    path = pathlib.Path(workdir) / "evaluation.json"
    if jax.process_index() == 0:
        path.write_text(json.dumps(outcome, indent=1) + "\n")
        print(f"\nwritten to {path}")


def main(argv: list[str]) -> None:
    """Command line: the run's own config is the default of every --config.a.b=value flag."""
    from absl import app, flags, logging
    from ml_collections import config_flags

    from se_jax import checkpoints

    logging.set_verbosity(logging.ERROR)  # orbax tells every step of its work
    for holder in (flags.FLAGS, given := flags.FlagValues()):
        flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=holder)
        flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which of its checkpoints.", flag_values=holder)
    given(argv, known_only=True)  # a first look: the config flags can only be defined from the run's config
    if given.workdir is None:
        sys.exit("se_jax.evaluate: name the run to evaluate: --workdir=DIR")

    def work(_):
        try:
            run(overridden.value, variables, given.workdir, given.checkpoint)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.evaluate: {error}")

    try:
        config, variables = checkpoints.load_for_inference(given.workdir, given.checkpoint)
        overridden = config_flags.DEFINE_config_dict("config", _open_ended(config))
        app.run(work, argv=argv)
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(f"se_jax.evaluate: a --config option that the run does not have, or of another type: {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"se_jax.evaluate: {error}")


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
