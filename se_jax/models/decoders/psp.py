"""PSPHead: pyramid pooling.

Source: Zhao et al., CVPR 2017 (arXiv 1612.01105), as mmsegmentation 1.2.2's PSPHead builds it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.classifier import classify
from se_jax.models.fusion import Equalizer, FusionConv
from se_jax.models.layers import ConvBlock, adaptive_avg_pool


def pyramid_pooling(head, x, train: bool):
    """Pools [b, h, w, c] to each of `head.pool_scales`, projects, and fuses with the input to [b, h, w, head.channels].

    The site 'ppm' of PSPHead and UPerHead; its layers belong to the head, in whose `__call__` this is called.
    """
    branches = {"input": x}
    for i, scale in enumerate(head.pool_scales):
        project = ConvBlock(head.channels, 1, dtype=head.dtype, name=f"psp_modules_{i}")
        branches[f"pool{scale}"] = project(adaptive_avg_pool(x, scale), train)
    bottleneck = FusionConv(
        "ppm",
        head.channels,
        equalizer=head.equalizer,
        align_corners=head.align_corners,
        dtype=head.dtype,
        name="bottleneck",
    )
    return bottleneck(branches, x.shape[1:3], train)


class PSPHead(nn.Module):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of feature `in_index`."""

    num_classes: int
    channels: int = 512
    in_index: int = 3
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        return {"ppm": True}

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = pyramid_pooling(self, features[self.in_index], train)
        return classify(x, self.num_classes, self.dropout, train, self.dtype)
