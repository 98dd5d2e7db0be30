"""The platform that a network is traced for decides its operators and its compiler's options."""

import jax
import jax.numpy as jnp
import pytest

from se_jax.models import layers, platforms


def test_compiler_options_are_accepted_and_keep_what_is_computed_once():
    program = jax.jit(lambda x: platforms.computed_once(x + 1) * 2, compiler_options=platforms.compiler_options())
    assert program(1) == 4
    assert "opt-barrier" in program.lower(1).compile().as_text()  # a compiler whose pass has another name drops it


def test_a_cpu_optimises_less_and_still_less_if_jax_is_told_to():
    level = "xla_backend_optimization_level"
    assert level not in platforms.compiler_options()  # tests are compiled without optimisations
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        assert platforms.compiler_options()[level] == "1"
        program = jax.jit(jnp.sin, compiler_options=platforms.compiler_options())
        assert program(0.0) == 0
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def test_a_network_lowered_for_another_platform_has_that_platforms_operators():
    """A depthwise convolution is one operator on a TPU and many on a CPU; the host is a CPU."""
    block = layers.SeparableConvBlock(8)
    x = jnp.zeros((2, 8, 8, 4))
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    function = jax.jit(block.apply)

    def program(platform):
        return function.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()

    with platforms.for_platform("tpu"):
        for_tpu = program("tpu")
    assert for_tpu.count("stablehlo.convolution") == 1 and "feature_group_count = 4" in for_tpu
    assert "stablehlo.convolution" not in program("cpu")
    with platforms.for_platform("cuda"):
        assert "feature_group_count = 4" in program("cuda")


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        lambda f: jax.jit(jax.grad(lambda x: f(x).sum())),
        lambda f: jax.grad(lambda x: jax.jit(f)(x).sum()),
        lambda f: jax.jit(jax.checkpoint(f)),
    ],
)
def test_no_trace_for_one_platform_serves_another(transform):
    """The same function, traced in turn for both: what JAX remembers of one is not taken for the other."""
    kernel = jnp.ones((3, 3, 1, 4))
    function = transform(lambda x: layers.conv2d(x, kernel, padding=1, groups=4))

    def has_convolution():
        return "conv_general_dilated" in str(jax.make_jaxpr(function)(jnp.zeros((1, 5, 5, 4))))

    for platform, expected in (("cpu", False), ("tpu", True), ("cpu", False), ("cuda", True)):
        with platforms.for_platform(platform):
            assert has_convolution() == expected
    assert not has_convolution()  # the default is the platform of JAX's default backend


def test_shapes_and_compiler_options_follow_the_platform():
    traced = []

    def function(x):
        traced.append(platforms.on_cpu())
        return x

    options = []
    for platform in ("cpu", "tpu", "cpu"):
        with platforms.for_platform(platform):
            jax.eval_shape(function, 1.0)
            options.append(bool(platforms.compiler_options()))
    assert traced == [True, False] and options == [True, False, True]  # shapes for a CPU were known the third time


def test_unknown_platforms_are_refused():
    with pytest.raises(ValueError, match="platform is 'CPU'; expected one of cpu, cuda, gpu, rocm, tpu"):
        platforms.for_platform("CPU")
