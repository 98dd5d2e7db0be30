"""The table of encoders: parameters, and multiply-adds of a 512 x 512 image, of every published size.

python -m experiments.encoders [--size=512] [--only=swin,mit]

Multiply-adds are those of convolutions and matrix products (attention's included, elementwise work not), counted in the
program as it is traced for an accelerator; nothing is run.
"""

import argparse
import math
import sys
from unittest import mock

import jax
import jax.numpy as jnp
from jax.extend import core

from se_jax.importers import tables
from se_jax.models import ENCODERS, cpu, layers

# sizes of the families that have no variants by name
OPTIONS = {
    "mobilenetv2": [{"width": 1.0, "output_stride": 8}, {"width": 1.0, "output_stride": 32}],
    "resnet": [{"depth": depth, "output_stride": stride} for depth in (18, 34, 50, 101) for stride in (8, 32)],
    "swin": [{"variant": "tiny"}, {"variant": "small"}, *({"variant": "base", "window": w} for w in (7, 12))]
    + [{"variant": "large", "window": 12}],
    "xception": [{"variant": v, "output_stride": 16} for v in ("65", "71")],
}


def published(name: str) -> list[dict]:
    """Options of every published size of a family."""
    variants = getattr(sys.modules[ENCODERS[name].__module__], "VARIANTS", {})
    return OPTIONS.get(name) or [{"variant": variant} for variant in variants]


def parameters(encoder) -> int:
    """How many trained numbers an encoder has."""
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def multiply_adds(encoder, size: int) -> int:
    """Of convolutions and matrix products, for one image of size x size."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    # a CPU's own forms hide convolutions in other operators; an accelerator's resize is a product, but is not counted
    on_accelerator = mock.patch.multiple(layers, on_cpu=lambda: False, _resize_axis=cpu.resize_axis)
    with on_accelerator:
        shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
        program = jax.make_jaxpr(encoder.apply)(shapes, images)
    return _count(program.jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total += out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            total += out.size * math.prod(equation.invars[1].aval.shape[:3])  # kernel height, width, inputs / groups
        for inner in core.jaxprs_in_params(equation.params):
            total += _count(inner)
    return total


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.encoders", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="height and width of the image")
    parser.add_argument("--only", default=",".join(ENCODERS), help="families, separated by commas")
    flags = parser.parse_args(arguments)
    families = flags.only.split(",")
    if unknown := set(families) - set(ENCODERS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; expected some of {', '.join(ENCODERS)}")
    print(f"| encoder | parameters, M | GMAC at {flags.size} x {flags.size} | layouts |\n| --- | --- | --- | --- |")
    for name in families:
        for options in published(name):
            encoder = ENCODERS[name](**options)
            text = ", ".join(str(value) if key == "variant" else f"{key} {value}" for key, value in options.items())
            counts = f"{parameters(encoder) / 1e6:.2f} | {multiply_adds(encoder, flags.size) / 1e9:.1f}"
            print(
                f"| {ENCODERS[name].__name__} {text} | {counts} | {', '.join(tables.tables_of(encoder))} |", flush=True
            )


if __name__ == "__main__":
    main()
