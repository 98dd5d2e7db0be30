"""Initial weights, as PyTorch and mmcv draw them."""

from collections.abc import Callable

import flax.linen as nn
import jax

# mmcv's Kaiming normal with fan_out: std sqrt(2 / (out * kh * kw)); also for a depthwise kernel fan_out is all outputs.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
classifier_normal = nn.initializers.normal(0.01)
# torch's default of a convolution's or linear layer's weight
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable:
    """torch's default of the bias of a layer with that many inputs to each output: uniform, as its weight."""
    limit = fan_in**-0.5
    return lambda key, shape: jax.random.uniform(key, shape, minval=-limit, maxval=limit)
