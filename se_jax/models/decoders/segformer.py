"""SegformerHead: the all-MLP decoder, 1x1 projections of four features fused once.

Source: Xie et al., NeurIPS 2021 (arXiv 2105.15203), as mmsegmentation 1.2.2's SegformerHead builds it: BatchNorm and
ReLU behind every projection, 256 channels for every encoder, and the finest feature first in the concatenation.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.classifier import classify
from se_jax.models.fusion import Equalizer, FusionConv
from se_jax.models.layers import ConvBlock


class SegformerHead(nn.Module):
    """Encoder features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first."""

    num_classes: int
    channels: int = 256
    dropout: float = 0.1
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        return {"fusion": True}

    @nn.compact
    def __call__(self, features, train: bool = False):
        branches = {
            f"level{i}": ConvBlock(self.channels, 1, dtype=self.dtype, name=f"convs_{i}")(x, train)
            for i, x in enumerate(features)
        }
        fuse = FusionConv(
            "fusion",
            self.channels,
            kernel_size=1,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="fusion_conv",
        )
        x = fuse(branches, features[0].shape[1:3], train)
        return classify(x, self.num_classes, self.dropout, train, self.dtype)
