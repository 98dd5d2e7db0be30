"""TensorFlow's SavedModel, and TFLite (LiteRT) made of the same function, both by jax2tf."""

import pathlib
from typing import Any

import tensorflow as tf
from jax.experimental import jax2tf
from tensorflow.lite.python.convert import ConverterError

from se_jax.exporters.stablehlo import PLATFORMS
from se_jax.exporters.traced import Traced


def write_savedmodel(traced: Traced, path: pathlib.Path) -> None:
    """Writes a SavedModel whose signature 'serving_default' takes `images`."""
    batch = "batch" if traced.shape[0] is None else str(traced.shape[0])
    polymorphic = f"({batch}, {', '.join(map(str, traced.shape[1:]))})"
    convert = jax2tf.convert(
        traced.function, polymorphic_shapes=[polymorphic], with_gradient=False, native_serialization_platforms=PLATFORMS
    )
    module: Any = tf.Module()
    module.call = tf.function(
        lambda images: {traced.output: convert(images)},
        input_signature=[tf.TensorSpec(traced.shape, tf.uint8, "images")],
        autograph=False,
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})


def write_tflite(traced: Traced, path: pathlib.Path) -> None:
    """Writes a TFLite model in float32.

    Raises:
      ValueError: for any batch; or the network has an operation that TFLite lacks.
    """
    if traced.shape[0] is None:
        raise ValueError("a TFLite model takes batches of one size: give --batch, e.g. 1")
    function = tf.function(
        lambda images: {traced.output: jax2tf.convert(traced.function, with_gradient=False)(images)},
        input_signature=[tf.TensorSpec(traced.shape, tf.uint8, "images")],
        autograph=False,
    )
    concrete = function.get_concrete_function()
    try:
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], function).convert())
    except ConverterError as error:
        raise ValueError(f"TFLite cannot express this network: {error}") from error
