"""A trained network as one file that runs without this library: StableHLO, TensorFlow, TFLite, ONNX.

What it computes is `se_jax.evaluation.program`: uint8 RGB in, class ids or probabilities out, with normalisation and
resizing inside and equalizers folded into the weights.
"""

import importlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from typing import Any

from se_jax import run
from se_jax.evaluation.predictor import Model
from se_jax.evaluation.program import program
from se_jax.evaluation.protocol import protocol
from se_jax.exporters.traced import Traced
from se_jax.models.platforms import for_platform

# format -> (module of this package, what to install where one of its libraries is missing)
FORMATS = {
    "stablehlo": ("stablehlo", ""),
    "savedmodel": ("tensorflow", 'pip install "se_jax[data]"'),
    "tflite": ("tensorflow", 'pip install "se_jax[data]"'),
    "onnx": ("onnx", 'pip install "se_jax[export]"'),
}
COLORS = {1: "grey", 3: "RGB", 4: "RGB and a fourth channel"}  # of images, by their channels


def export(
    model: Model, path, format: str, size: tuple[int, int], *, batch: int | None = 1, outputs: str = "ids"
) -> pathlib.Path:
    """Writes `model` to `path` (a directory for 'savedmodel'), and beside it PATH.json: classes, palette, config.

    Args:
      format: one of FORMATS.
      size: (height, width) of the images that it takes. config.eval says how they become class ids: at which size the
        network sees them, whole or by windows.
      batch: images that it takes at once; None: any number (not in 'tflite').
      outputs: 'ids', uint8 [b, h, w], or 'probabilities', float32 [b, h, w, K].

    Returns:
      the path of the metadata.

    Raises:
      ValueError: an argument cannot be, or the format has no such operation; names it. FileExistsError: `path` is
      there. ModuleNotFoundError: a library of the format is not installed; says how. OSError: it cannot be written.
    """
    path, beside = pathlib.Path(path), pathlib.Path(f"{path}.json")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1, or None for any")
    for taken in (path, beside):
        if taken.exists():
            raise FileExistsError(f"{taken} exists; give another --output, or remove it")
    module, advice = FORMATS[format]
    network, variables = model.folded
    traced = Traced(
        program(network, variables, protocol(model.config.eval), size, outputs),
        (batch, *size, network.channels),
        outputs,
        _metadata(model, format, size, batch, outputs),
    )
    try:
        write = getattr(importlib.import_module(f"se_jax.exporters.{module}"), f"write_{format}")
    except ModuleNotFoundError as error:
        if not advice:
            raise
        raise ModuleNotFoundError(f"{format} needs {error.name}, which is not installed: {advice}") from error
    run.make(path.parent, "output")
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with for_platform("tpu"):  # plain operations, of which every runtime has its own fast form
            write(traced, whole)
        whole.rename(path)
    finally:
        if whole.is_dir():
            shutil.rmtree(whole)
        whole.unlink(missing_ok=True)
    run.write_json(beside, traced.metadata)
    return beside


def _metadata(model: Model, format: str, size, batch: int | None, outputs: str) -> dict[str, Any]:
    shape, channels = [batch, *size], model.network.channels
    result = {"ids": ("uint8", shape), "probabilities": ("float32", [*shape, len(model.names)])}[outputs]
    return {
        "format": format,
        "input": {"dtype": "uint8", "shape": [*shape, channels], "colors": COLORS[channels], "range": [0, 255]},
        "output": {"name": outputs, "dtype": result[0], "shape": result[1]},
        "classes": list(model.names),
        "palette": model.palette.tolist(),
        "config": json.loads(model.config.to_json()),
        "versions": {name: importlib.metadata.version(name) for name in ("se_jax", "jax")},
    }
