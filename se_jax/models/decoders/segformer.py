"""SegformerHead: the all-MLP decoder, 1x1 projections of four features fused once.

Source: Xie et al., NeurIPS 2021 (arXiv 2105.15203), as mmsegmentation 1.2.2's SegformerHead builds it: BatchNorm and
ReLU behind every projection, 256 channels for every encoder, and the finest feature first in the concatenation.
"""

import flax.linen as nn

from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.layers import ConvBlock


class SegformerHead(Decoder):
    """Encoder features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first."""

    channels: int = 256

    @nn.compact
    def __call__(self, features, train: bool = False):
        branches = {
            f"level{i}": ConvBlock(self.channels, 1, dtype=self.dtype, name=f"convs_{i}")(x, train)
            for i, x in enumerate(features)
        }
        fuse = fusion_conv(self, "fusion", "fusion_conv", kernel_size=1)
        x = fuse(branches, features[0].shape[1:3], train)
        return {"logits": classify(self, x, train)}
