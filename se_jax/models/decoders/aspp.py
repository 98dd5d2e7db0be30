"""ASPPHead: DeepLabV3's atrous spatial pyramid pooling.

Source: Chen et al., 2017 (arXiv 1706.05587), as mmsegmentation 1.2.2's ASPPHead builds it: the image pool comes first
in the concatenation, and the bottleneck is a 3x3 convolution.
"""

import flax.linen as nn

from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.layers import ConvBlock, SeparableConvBlock, adaptive_avg_pool


def atrous_pyramid(head, x, train: bool, separable: bool, kernel_size: int = 3):
    """Fuses the image pool and the atrous branches of [b, h, w, c] to [b, h, w, head.channels].

    The site 'aspp' of several heads; its layers belong to the head, in whose `__call__` this is called. Dilation 1 is a
    1x1 convolution block; `separable` makes the others depthwise-separable. kernel_size: of the convolution behind the
    concatenation, 1 in DeepLab's own code.
    """
    pool = ConvBlock(head.channels, 1, dtype=head.dtype, name="image_pool")
    branches = {"image_pool": pool(adaptive_avg_pool(x, 1), train)}
    for i, dilation in enumerate(head.dilations):
        name = f"aspp_modules_{i}"
        if dilation == 1:
            branch = ConvBlock(head.channels, 1, dtype=head.dtype, name=name)
        elif separable:
            branch = SeparableConvBlock(head.channels, dilation=dilation, dtype=head.dtype, name=name)
        else:
            branch = ConvBlock(head.channels, 3, dilation=dilation, dtype=head.dtype, name=name)
        branches[f"dilation{dilation}"] = branch(x, train)
    bottleneck = fusion_conv(head, "aspp", "bottleneck", kernel_size=kernel_size)
    return bottleneck(branches, x.shape[1:3], train)


class ASPPHead(Decoder):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of feature `in_index`.

    Attributes:
      dilations: (1, 12, 24, 36) suits an encoder of output stride 8, (1, 6, 12, 18) one of 16.
    """

    in_index: int = 3
    dilations: tuple[int, ...] = (1, 12, 24, 36)

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = atrous_pyramid(self, features[self.in_index], train, separable=False)
        return {"logits": classify(self, x, train)}
