"""FeaturePyramid: maps of four strides made of the one grid of a plain vision transformer.

Source: mmsegmentation 1.2.2's Feature2Pyramid, with which BEiT and MAE feed an UPer head; ViTDet's simple feature
pyramid (https://arxiv.org/abs/2203.16527) is of the same steps with other norms.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.attention import gelu
from se_jax.models.initializers import torch_bias, torch_uniform
from se_jax.models.layers import BatchNorm, add_bias, linear


class Upsample(nn.Module):
    """Transposed convolution of kernel and stride 2: [b, h, w, c] -> [b, 2 h, 2 w, features].

    Its kernel [c, 2 * 2 * features] is a linear map to the four pixels that each pixel becomes.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        # torch takes the fan_in of the transposed kernel: four taps of as many channels as come out
        fan_in = 4 * self.features
        kernel_init = lambda key, shape: torch_uniform(key, shape) * (channels / fan_in) ** 0.5  # noqa: E731
        kernel = self.param("kernel", kernel_init, (channels, 4 * self.features))
        bias = self.param("bias", torch_bias(fan_in), (self.features,))
        y = linear(x.astype(self.dtype), kernel.astype(self.dtype))
        y = y.reshape(batch, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return add_bias(y.reshape(batch, 2 * height, 2 * width, self.features), bias.astype(self.dtype))


class FeaturePyramid(nn.Module):
    """One map, or four of one grid, [b, h, w, c] -> four of 4 h, 2 h, h and h / 2, finest first; as wide as they are.

    The finest goes through two transposed convolutions with BatchNorm and GELU between them, the second through one,
    the third stays, and the coarsest is the maximum of 2 x 2 (an odd remainder at the bottom and right is dropped).
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps, train: bool = False):
        first, second, third, last = maps if len(maps) == 4 else 4 * tuple(maps)
        x = Upsample(first.shape[-1], dtype=self.dtype, name="upsample_4x_0")(first)
        x = gelu(BatchNorm(dtype=self.dtype, name="upsample_4x_1")(x, train))
        finest = Upsample(first.shape[-1], dtype=self.dtype, name="upsample_4x_3")(x)
        finer = Upsample(second.shape[-1], dtype=self.dtype, name="upsample_2x_0")(second)
        return finest, finer, third, nn.max_pool(last, (2, 2), strides=(2, 2))
