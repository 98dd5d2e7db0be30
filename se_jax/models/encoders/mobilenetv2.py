"""MobileNetV2 (https://arxiv.org/abs/1801.04381), dilated as mmsegmentation 1.2.2's MobileNetV2."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.layers import ConvBlock

STEM = 32
# Expansion, channels and blocks of the seven layers; the maps are those behind layers 2, 3, 5 and 7.
LAYERS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
OUTPUTS = (2, 3, 5, 7)
# By output stride: stride and dilation of each layer's first block.
STRIDES = {8: (1, 2, 2, 1, 1, 1, 1), 32: (1, 2, 2, 2, 1, 2, 1)}
DILATIONS = {8: (1, 1, 1, 2, 2, 4, 4), 32: (1, 1, 1, 1, 1, 1, 1)}


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8 (half goes up), but not below 90 % of the product."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class InvertedResidual(nn.Module):
    """Inverted residual block: [b, h, w, c] -> [b, ceil(h / strides), ceil(w / strides), features].

    1x1 up to `expansion` times the input's channels (left out at expansion 1), 3x3 depthwise, 1x1 down without an
    activation; a shortcut where it fits.
    """

    features: int
    expansion: int
    strides: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        hidden = x.shape[-1] * self.expansion
        spatial = {"strides": self.strides, "dilation": self.dilation, "groups": hidden}
        convolutions = [(hidden, 3, spatial | {"activation": nn.relu6}), (self.features, 1, {"activation": None})]
        if self.expansion != 1:
            convolutions.insert(0, (hidden, 1, {"activation": nn.relu6}))
        y = x
        for index, (features, kernel_size, options) in enumerate(convolutions):
            y = ConvBlock(features, kernel_size, **options, dtype=self.dtype, name=f"conv_{index}")(y, train)
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
    """MobileNetV2 encoder: image [b, h, w, 3] -> four maps [b, h/s, w/s, c], finest first; odd sizes are rounded up.

    Without the classifier's 1x1 convolution to 1280 channels.

    Attributes:
      width: multiplier of all channels, the stem's too; see `scaled_channels`.
      output_stride: 8 or 32, the stride of the last map. At 8, layers 4 to 7 are dilated instead of strided; only the
        first block of each has the dilation, the others none.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a width that is not positive, or an output stride that does not exist.
    """

    width: float = 1.0
    output_stride: int = 8
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        if self.output_stride not in STRIDES:
            raise ValueError(f"MobileNetV2 output_stride is {self.output_stride!r}; expected one of 8, 32.")
        if not self.width > 0:
            raise ValueError(f"MobileNetV2 width is {self.width!r}; expected a positive multiplier of all channels.")
        super().__post_init__()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(scaled_channels(LAYERS[layer - 1][1], self.width) for layer in OUTPUTS)

    @nn.compact
    def __call__(self, x, train: bool = False):
        stem = scaled_channels(STEM, self.width)
        x = ConvBlock(stem, 3, strides=2, activation=nn.relu6, dtype=self.dtype, name="conv1")(x, train)
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if self.remat else InvertedResidual
        maps = []
        for layer, geometry in enumerate(self._geometry(), 1):
            expansion, channels, _ = LAYERS[layer - 1]
            for index, (strides, dilation) in enumerate(geometry):
                x = block(
                    scaled_channels(channels, self.width),
                    expansion,
                    strides=strides,
                    dilation=dilation,
                    dtype=self.dtype,
                    name=f"layer{layer}_{index}",
                )(x, train)
            if layer in OUTPUTS:
                maps.append(x)
        return tuple(maps)

    def _geometry(self) -> list[list[tuple[int, int]]]:
        """(stride, dilation) of every block, by layer."""
        first = zip(STRIDES[self.output_stride], DILATIONS[self.output_stride], strict=True)
        return [[place] + [(1, 1)] * (blocks - 1) for place, (_, _, blocks) in zip(first, LAYERS, strict=True)]
