"""UPerHead: feature pyramid with pyramid pooling on top.

Source: Xiao et al., ECCV 2018 (arXiv 1807.10221), as mmsegmentation 1.2.2's UPerHead builds it.
"""

import flax.linen as nn

from se_jax.equalizer.fusion import Fusion
from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.decoders.psp import pyramid_pooling
from se_jax.models.layers import ConvBlock


class UPerHead(Decoder):
    """Four features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first.

    The top-down sums are sites too ('topdown_2', 'topdown_1', 'topdown_0'), equalized only where named: no weight
    follows them into which an equalizer could be folded.
    """

    pool_scales: tuple[int, ...] = (1, 2, 3, 6)

    @nn.compact
    def __call__(self, features, train: bool = False):
        *lower, top = features
        levels = [
            ConvBlock(self.channels, 1, dtype=self.dtype, name=f"lateral_convs_{i}")(x, train)
            for i, x in enumerate(lower)
        ]
        top = pyramid_pooling(self, top, train)

        coarser = top
        for i in reversed(range(len(levels))):
            fuse = Fusion(
                self.equalizer, "sum", self.align_corners, default=False, dtype=self.dtype, name=f"topdown_{i}"
            )
            coarser = levels[i] = fuse({"lateral": levels[i], "coarser": coarser}, levels[i].shape[1:3])

        branches = {
            f"level{i}": ConvBlock(self.channels, 3, dtype=self.dtype, name=f"fpn_convs_{i}")(x, train)
            for i, x in enumerate(levels)
        }
        branches["ppm"] = top
        bottleneck = fusion_conv(self, "fpn", "fpn_bottleneck")
        x = bottleneck(branches, levels[0].shape[1:3], train)
        return {"logits": classify(self, x, train)}
