"""SepASPPHead: DeepLabV3+'s decoder, separable atrous pyramid plus a low-level feature.

Source: Chen et al., ECCV 2018 (arXiv 1802.02611), as mmsegmentation 1.2.2's DepthwiseSeparableASPPHead builds it:
BatchNorm and ReLU between depthwise and pointwise convolutions, and a bottleneck that is a plain 3x3 convolution.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.aspp import atrous_pyramid
from se_jax.models.decoders.classifier import classify
from se_jax.models.fusion import Equalizer, FusionConv
from se_jax.models.layers import ConvBlock, SeparableConvBlock


class SepASPPHead(nn.Module):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of feature 0.

    Attributes:
      c1_channels: channels to which feature 0 is projected; 0 leaves that branch, and its site 'c1', out.
    """

    num_classes: int
    channels: int = 512
    in_index: int = 3
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    c1_channels: int = 48
    dropout: float = 0.1
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        return {"aspp": True, "c1": True} if self.c1_channels else {"aspp": True}

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = atrous_pyramid(self, features[self.in_index], train, separable=True)
        if self.c1_channels:
            c1 = ConvBlock(self.c1_channels, 1, dtype=self.dtype, name="c1_bottleneck")(features[0], train)
            fuse = FusionConv(
                "c1",
                self.channels,
                separable=True,
                equalizer=self.equalizer,
                align_corners=self.align_corners,
                dtype=self.dtype,
                name="sep_bottleneck_0",
            )
            x = fuse({"aspp": x, "c1": c1}, c1.shape[1:3], train)
        else:
            x = SeparableConvBlock(self.channels, dtype=self.dtype, name="sep_bottleneck_0")(x, train)
        x = SeparableConvBlock(self.channels, dtype=self.dtype, name="sep_bottleneck_1")(x, train)
        return classify(x, self.num_classes, self.dropout, train, self.dtype)
