"""ONNX, by jax2onnx."""

import json
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend.core import jaxpr_as_fun
from jax2onnx import to_onnx

from se_jax.exporters.traced import Traced


def write_onnx(traced: Traced, path: pathlib.Path) -> None:
    """Writes an ONNX model, whose input is `images`; its metadata_props hold the metadata.

    Raises:
      ValueError: the network has an operation that jax2onnx lacks.
    """
    batch = jax.export.symbolic_shape("batch")[0] if traced.shape[0] is None else traced.shape[0]
    images = jax.ShapeDtypeStruct((batch, *traced.shape[1:]), jnp.uint8)
    # jax2onnx puts forms of its own in the place of flax's and jax.numpy's functions, one of which loses the padding of
    # a max pooling; of a program that is traced already it sees only primitives.
    program = jax.make_jaxpr(traced.function)(images)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    model = to_onnx(
        lambda images: jaxpr_as_fun(program)(images)[0],
        [images],
        input_names=["images"],
        output_names=[traced.output],
    )
    _pool_in_two_dimensions(model)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in traced.metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _pool_in_two_dimensions(model: onnx.ModelProto) -> None:
    """jax2onnx pools [b, h, w, c] as four dimensions, of which runtimes know three at most: -> [b, c, h, w] and two."""
    nodes = []
    for node in model.graph.node:
        given = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        if node.op_type not in ("MaxPool", "AveragePool") or len(given["kernel_shape"]) != 4:
            nodes.append(node)
            continue
        if given["kernel_shape"][0] != 1 or given["kernel_shape"][3] != 1:
            raise ValueError(f"ONNX: a pooling of {given['kernel_shape']} is none over rows and columns")
        (source,), (result,) = node.input, node.output  # [1, 1, b, h, w, c]
        flat, turned, pooled, back = (f"{result}_{name}" for name in ("flat", "turned", "pooled", "back"))
        axes = f"{result}_axes"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1]), axes))
        sides: dict[str, Any] = {
            name: values[1:3] if len(values) == 4 else values[1:3] + values[5:7]
            for name, values in given.items()
            if len(values) in (4, 8)
        }
        nodes += [
            onnx.helper.make_node("Squeeze", [source, axes], [flat]),
            onnx.helper.make_node("Transpose", [flat], [turned], perm=[0, 3, 1, 2]),
            onnx.helper.make_node(node.op_type, [turned], [pooled], **sides),
            onnx.helper.make_node("Transpose", [pooled], [back], perm=[0, 2, 3, 1]),
            onnx.helper.make_node("Unsqueeze", [back, axes], [result]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
