"""PSPHead: pyramid pooling.

Source: Zhao et al., CVPR 2017 (arXiv 1612.01105), as mmsegmentation 1.2.2's PSPHead builds it.
"""

import flax.linen as nn

from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.layers import ConvBlock, adaptive_avg_pool


def pyramid_pooling(head, x, train: bool):
    """Pools [b, h, w, c] to each of `head.pool_scales`, projects, and fuses with the input to [b, h, w, head.channels].

    The site 'ppm' of PSPHead and UPerHead; its layers belong to the head, in whose `__call__` this is called.
    """
    branches = {"input": x}
    for i, scale in enumerate(head.pool_scales):
        project = ConvBlock(head.channels, 1, dtype=head.dtype, name=f"psp_modules_{i}")
        branches[f"pool{scale}"] = project(adaptive_avg_pool(x, scale), train)
    bottleneck = fusion_conv(head, "ppm", "bottleneck")
    return bottleneck(branches, x.shape[1:3], train)


class PSPHead(Decoder):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of feature `in_index`."""

    in_index: int = 3
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = pyramid_pooling(self, features[self.in_index], train)
        return {"logits": classify(self, x, train)}
