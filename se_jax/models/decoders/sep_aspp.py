"""SepASPPHead: DeepLabV3+'s decoder, separable atrous pyramid plus a low-level feature.

Source: Chen et al., ECCV 2018 (arXiv 1802.02611), as mmsegmentation 1.2.2's DepthwiseSeparableASPPHead builds it:
BatchNorm and ReLU between depthwise and pointwise convolutions, and a bottleneck that is a plain 3x3 convolution. With
bottleneck_size=1 it is the decoder of DeepLab's own code (model.py of tensorflow/models).
"""

import flax.linen as nn

from se_jax.models.decoders.aspp import atrous_pyramid
from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.layers import ConvBlock, SeparableConvBlock


class SepASPPHead(Decoder):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of feature `c1_index`.

    Attributes:
      c1_channels: channels to which feature `c1_index` is projected; 0 leaves that branch, and its site 'c1', out.
      bottleneck_size: kernel size of the convolution that fuses the atrous pyramid.
      dense: the two 3x3 convolutions behind the site 'c1' are plain ones. In front of a separable one the scale of a
        branch changes nothing in training: the depthwise step keeps channels apart and its BatchNorm rescales each.
    """

    in_index: int = 3
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    c1_channels: int = 48
    c1_index: int = 0
    bottleneck_size: int = 3
    dense: bool = False

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = atrous_pyramid(self, features[self.in_index], train, separable=True, kernel_size=self.bottleneck_size)
        name = "convs" if self.dense else "sep_bottleneck"
        block = ConvBlock if self.dense else SeparableConvBlock
        if self.c1_channels:
            c1 = ConvBlock(self.c1_channels, 1, dtype=self.dtype, name="c1_bottleneck")(features[self.c1_index], train)
            fuse = fusion_conv(self, "c1", f"{name}_0", separable=not self.dense)
            x = fuse({"aspp": x, "c1": c1}, c1.shape[1:3], train)
        else:
            x = block(self.channels, dtype=self.dtype, name=f"{name}_0")(x, train)
        x = block(self.channels, dtype=self.dtype, name=f"{name}_1")(x, train)
        return {"logits": classify(self, x, train)}
