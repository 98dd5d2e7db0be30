"""ConvNeXt (https://arxiv.org/abs/2201.03545): a convolutional network with the proportions of a transformer.

Numerically mmpretrain 1.2.0's ConvNeXt as mmsegmentation 1.2.2 uses it: layer scale starts at one, and each of the four
maps has a LayerNorm of its own.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.attention import DropPath, LayerNorm, Linear, drop_path_rates, gelu, linear_normal
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import Conv

# drop paths are those of the published segmentation networks
VARIANTS = {
    "tiny": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "drop_path": 0.4},
    "small": {"widths": (96, 192, 384, 768), "depths": (3, 3, 27, 3), "drop_path": 0.3},
    "base": {"widths": (128, 256, 512, 1024), "depths": (3, 3, 27, 3), "drop_path": 0.4},
    "large": {"widths": (192, 384, 768, 1536), "depths": (3, 3, 27, 3), "drop_path": 0.4},
    "xlarge": {"widths": (256, 512, 1024, 2048), "depths": (3, 3, 27, 3), "drop_path": 0.4},
}
EPSILON = 1e-6
EXPANSION = 4
STRIDE = 32  # of the last map; a smaller image leaves it empty


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm, two linear maps with a GELU between, layer scale: [b, h, w, c] -> same."""

    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        channels = x.shape[-1]
        depthwise = Conv(
            channels,
            7,
            groups=channels,
            use_bias=True,
            kernel_init=linear_normal,
            dtype=self.dtype,
            name="depthwise_conv",
        )
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(depthwise(x))
        y = gelu(Linear(EXPANSION * channels, dtype=self.dtype, name="pointwise_conv1")(y))
        y = Linear(channels, dtype=self.dtype, name="pointwise_conv2")(y)
        y = y * self.param("gamma", nn.initializers.ones, (channels,)).astype(self.dtype)
        return x + DropPath(self.drop_path)(y, train)


class ConvNeXt(nn.Module):
    """ConvNeXt encoder: image [b, h, w, 3] -> four maps of strides 4, 8, 16, 32, finest first; sizes are rounded down.

    Attributes:
      variant: 'tiny', 'small', 'base', 'large' or 'xlarge'; the following fields replace its sizes where not None.
      widths: channels of the four stages.
      depths: blocks of the four stages.
      drop_path: the last block's rate of stochastic depth; the others' rise to it from zero, in equal steps.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, or not four widths or depths; for images smaller than 32 x 32.
    """

    variant: str = "tiny"
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    drop_path: float | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        for name in ("widths", "depths"):
            value = getattr(self.sizes, name)
            if len(value) != 4 or min(value) < 1:
                raise ValueError(f"ConvNeXt {name} is {value}; expected four positive numbers, one a stage.")
        if not 0 <= self.sizes.drop_path < 1:
            raise ValueError(f"ConvNeXt drop_path is {self.sizes.drop_path}; expected a rate from 0 to below 1.")
        super().__post_init__()

    @property
    def sizes(self):
        """The variant's sizes, with the fields that replace them."""
        return variant_sizes(self, VARIANTS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return self.sizes.widths

    @nn.compact
    def __call__(self, x, train: bool = False):
        if min(x.shape[1:3]) < STRIDE:
            raise ValueError(f"ConvNeXt got images of {x.shape[1]} x {x.shape[2]}; expected at least {STRIDE} a side.")
        sizes = self.sizes
        block = nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock
        maps = []
        for stage, rates in enumerate(drop_path_rates(sizes.drop_path, sizes.depths)):
            x = self._downsample(x, stage, sizes.widths[stage])
            for index, rate in enumerate(rates):
                x = block(rate, dtype=self.dtype, name=f"stages_{stage}_{index}")(x, train)
            maps.append(LayerNorm(EPSILON, dtype=self.dtype, name=f"norm{stage}")(x))
        return tuple(maps)

    def _downsample(self, x, stage: int, width: int):
        """The stem (4x4 convolution, then norm), or what stands before a later stage (norm, then 2x2 convolution)."""
        kernel = 2 if stage else 4
        name = f"downsample_layers_{stage}"
        conv = Conv(
            width,
            kernel,
            strides=kernel,
            padding=0,
            use_bias=True,
            kernel_init=linear_normal,
            dtype=self.dtype,
            name=f"{name}_{1 if stage else 0}",
        )
        norm = LayerNorm(EPSILON, dtype=self.dtype, name=f"{name}_{0 if stage else 1}")
        return conv(norm(x)) if stage else norm(conv(x))
