"""StableHLO by jax.export: one file for CPU, GPU and TPU, that jax alone runs: `jax.export.deserialize(bytes).call`."""

import pathlib

import jax
import jax.numpy as jnp

from se_jax.exporters.traced import Traced

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(traced: Traced, path: pathlib.Path) -> None:
    """Writes the serialised program, weights inside. JAX keeps it readable for six months of its versions."""
    batch = jax.export.symbolic_shape("batch")[0] if traced.shape[0] is None else traced.shape[0]
    images = jax.ShapeDtypeStruct((batch, *traced.shape[1:]), jnp.uint8)
    path.write_bytes(jax.export.export(jax.jit(traced.function), platforms=PLATFORMS)(images).serialize())
