"""The platform that networks are traced for, and what XLA's compiler for a CPU has to be told."""

from typing import Any

import jax
from jax import lax

PLATFORMS = ("cpu", "cuda", "gpu", "rocm", "tpu")
# Unlike a plain global, this is part of the key under which jax.jit and other transformations remember their traces.
# The alternative was measured: `lax.platform_dependent` inside the forward and backward rules of every operation needed
# the same processor time to run (0.98, 1.01) and to compile (0.88, 0.98), but 1.7 and 1.6 times as much to trace and
# lower, since both forms are traced (ResNet-50 + ASPP, MobileNetV2 + FCN, forward + backward, 256 x 256, batch 2).
_platform = jax.make_user_context(None)


def for_platform(platform: str):
    """Chooses the platform for which networks are traced: `with for_platform("tpu"): lowered = ...`.

    Without it that is JAX's default backend. It is needed where another platform will run the program: when lowering or
    exporting for a TPU on a CPU host, or for CPU devices of a machine with a GPU. All forms compute the same function,
    so a program traced for the wrong platform is slow, not wrong.

    Tracing must happen inside the block: call, lower or export there. `parallel.jit` and `parallel.jit_once` choose
    compiler options when they are called, so call them there too. Like other contexts of JAX, this one holds in its own
    thread only.

    Raises:
      ValueError: the name is none of PLATFORMS.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"platform is {platform!r}; expected one of {', '.join(PLATFORMS)}")
    return _platform(platform)


def on_cpu() -> bool:
    """Whether what is traced now is meant for XLA's CPU backend: see `for_platform`."""
    return (_platform.value or jax.default_backend()) == "cpu"


def on_gpu() -> bool:
    """Whether what is traced now is meant for XLA's GPU backend."""
    return (_platform.value or jax.default_backend()) in ("cuda", "gpu", "rocm")


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` of a network.

    On a CPU: convolutions without YNNPACK, whose weight gradients are slow; barriers that stay until operations are
    fused (`computed_once`), where the compiler has a pass of that name, which drops them; and LLVM's first level of
    optimisation, by which programs compile in 0.78 to 0.92 of the time and run as fast (docs/speed.md), but where JAX
    is told to do without optimisations.
    """
    if not on_cpu():
        return {}
    options = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_disable_hlo_passes": "cse_barrier_expander"}
    if not jax.config.read("jax_disable_most_optimizations"):
        options["xla_backend_optimization_level"] = "1"
    return options


def computed_once(x) -> Any:
    """x, which a CPU keeps in memory for all that read it.

    XLA's CPU compiler computes sums again inside everything that reads them: a chain of residual blocks again and again
    from its start, which is slow to run and to compile where branches are many and narrow (HRNet's forward pass: 4.2
    times as slow), and logits of an image's size in every pass of a loss over them. Elsewhere it gains nothing: a
    MobileNet's blocks are slower by it.
    """
    return lax.optimization_barrier(x) if on_cpu() else x
