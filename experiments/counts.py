"""How large a module is, counted from its shapes: nothing is run or compiled.

multiply_adds(ResNet(50), counts.image(512, 512))
multiply_adds(ASPPHead(19), features)   # a tuple of jax.ShapeDtypeStruct, e.g. of jax.eval_shape
"""

import collections
import math

import jax
import jax.numpy as jnp
from jax.extend import core

from se_jax.models import platforms


def image(height: int, width: int) -> jax.ShapeDtypeStruct:
    """The shape of one image."""
    return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


def parameters(module, inputs=None) -> int:
    """How many trained numbers a flax module has; by default it takes images, of 64 x 64."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), image(64, 64) if inputs is None else inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def multiply_adds(module, inputs) -> int:
    """Of convolutions and matrix products (elementwise work not) of a flax module, as traced for an accelerator.

    Args:
      inputs: shapes of its input, a jax.ShapeDtypeStruct or a tuple of them, with the batch.
    """
    return multiply_adds_by_module(module, inputs).total()


def multiply_adds_by_module(module, inputs) -> collections.Counter:
    """The same for every module inside, by its path, e.g. 'Segmenter/decoder/bottleneck/block/conv'."""
    with platforms.for_platform("tpu"):  # a CPU's own forms hide convolutions in other operators
        program = jax.make_jaxpr(module.init_with_output)(jax.random.key(0), inputs)  # drawing has no products
    return _count(program.jaxpr, "")


def _count(jaxpr, outside: str) -> collections.Counter:
    total = collections.Counter()
    for equation in jaxpr.eqns:
        path = "/".join(filter(None, (outside, str(equation.source_info.name_stack))))
        if "resize" in path.split("/"):
            continue  # by matrix products here, but the papers count it as elementwise work
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total[path] += out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            # kernel height, width, inputs / groups
            total[path] += out.size * math.prod(equation.invars[1].aval.shape[:3])
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            total += collections.Counter({key: times * number for key, number in _count(inner, path).items()})
    return total
