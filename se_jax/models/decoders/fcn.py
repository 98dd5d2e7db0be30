"""FCNHead: plain convolutions on one feature, or on several resized to the finest and concatenated (HRNet's way).

Source: Long et al., CVPR 2015 (arXiv 1411.4038), as mmsegmentation 1.2.2's FCNHead builds it; also its auxiliary head.
"""

import flax.linen as nn

from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.layers import ConvBlock


class FCNHead(Decoder):
    """Features -> logits float32 [b, h, w, num_classes] at the resolution of the selected (or first selected) feature.

    Attributes:
      in_index: the encoder feature to use.
      num_convs: convolution blocks before the classifier.
      dilation: of those blocks (6 in the reference's d6 configs); never of the block behind the concatenation.
      concat_input: concatenate the head's input with the blocks' result, and convolve once more. No resize happens at
        this site, so it is equalized only where named.
      resize_concat: resize all encoder features to the finest and concatenate them; `in_index` is not used.

    Raises:
      ValueError: resize_concat without a convolution behind it, or together with concat_input.
    """

    in_index: int = 3
    num_convs: int = 2
    kernel_size: int = 3
    dilation: int = 1
    concat_input: bool = True
    resize_concat: bool = False

    @nn.compact
    def __call__(self, features, train: bool = False):
        if self.resize_concat and (self.concat_input or self.num_convs < 1 or self.dilation != 1):
            raise ValueError(
                "FCNHead with resize_concat=True needs concat_input=False, num_convs >= 1 and dilation=1; got "
                f"concat_input={self.concat_input}, num_convs={self.num_convs}, dilation={self.dilation}"
            )
        inputs = x = features[self.in_index]
        for i in range(self.num_convs):
            if i == 0 and self.resize_concat:
                x = self._fuse(features, train)
                continue
            x = ConvBlock(self.channels, self.kernel_size, dilation=self.dilation, dtype=self.dtype, name=f"convs_{i}")(
                x, train
            )
        if self.concat_input:
            branches = {"input": inputs, "convs": x}
            fuse = fusion_conv(self, "concat_input", "conv_cat", kernel_size=self.kernel_size, default=False)
            x = fuse(branches, x.shape[1:3], train)
        return {"logits": classify(self, x, train)}

    def _fuse(self, features, train: bool):
        branches = {f"level{i}": feature for i, feature in enumerate(features)}
        fuse = fusion_conv(self, "resize_concat", "convs_0", kernel_size=self.kernel_size)
        return fuse(branches, features[0].shape[1:3], train)
