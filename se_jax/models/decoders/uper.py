"""UPerHead: feature pyramid with pyramid pooling on top.

Source: Xiao et al., ECCV 2018 (arXiv 1807.10221), as mmsegmentation 1.2.2's UPerHead builds it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.classifier import classify
from se_jax.models.decoders.psp import pyramid_pooling
from se_jax.models.fusion import Equalizer, Fusion, FusionConv
from se_jax.models.layers import ConvBlock


class UPerHead(nn.Module):
    """Four features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first.

    The top-down sums are sites too ('topdown_2', 'topdown_1', 'topdown_0'), equalized only where named: no weight
    follows them into which an equalizer could be folded.
    """

    num_classes: int
    channels: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        return {"ppm": True, "topdown_2": False, "topdown_1": False, "topdown_0": False, "fpn": True}

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
        bottleneck = FusionConv(
            "fpn",
            self.channels,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="fpn_bottleneck",
        )
        x = bottleneck(branches, levels[0].shape[1:3], train)
        return classify(x, self.num_classes, self.dropout, train, self.dtype)
