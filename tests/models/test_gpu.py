"""A GPU's forms of layers compute what XLA's own do."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.models import gpu, layers, platforms
from se_jax.models.convolution import convolution

TAPS = st.sampled_from([(1, 3), (3, 3), (3, 5)])


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), TAPS, st.integers(2, 5), st.integers(0, 2), st.sampled_from([1, 2, 4]))
def test_the_gradients_of_a_dilated_convolution_are_xlas(height, width, taps, dilation, margin, groups):
    padding = dilation * (taps[1] // 2 + margin)  # more than keeps the map's size, too
    shapes = (2, height, width, 4), (*taps, 4 // groups, 4)
    x, kernel = (jax.random.normal(jax.random.key(0), shape) for shape in shapes)

    def gradients(conv):
        y, back = jax.vjp(conv, x, kernel)
        return y, back(jax.random.normal(jax.random.key(1), y.shape))

    found = gradients(lambda x, kernel: gpu.dilated_conv(x, kernel, padding, dilation, groups))
    expected = gradients(lambda x, kernel: convolution(x, kernel, 1, padding, dilation, groups))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_a_gpu_gets_no_gradient_of_a_dilated_kernel():
    def dilations(platform, groups):
        def loss(kernel):
            return layers.conv2d(jnp.ones((1, 8, 8, 4)), kernel, padding=2, dilation=2, groups=groups).sum()

        with platforms.for_platform(platform):
            program = jax.make_jaxpr(jax.grad(loss))(jnp.ones((3, 3, 4 // groups, 4)))
        return str(program).count("window_strides=(2, 2)")

    for groups in (1, 4):  # and depthwise
        assert dilations("tpu", groups) == 1 and dilations("cuda", groups) == 0
