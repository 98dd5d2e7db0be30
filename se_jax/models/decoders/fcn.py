"""FCNHead: plain convolutions on one feature, or on several resized to the finest and concatenated (HRNet's way).

Source: Long et al., CVPR 2015 (arXiv 1411.4038), as mmsegmentation 1.2.2's FCNHead builds it; also its auxiliary head.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.classifier import classify
from se_jax.models.fusion import Equalizer, FusionConv
from se_jax.models.layers import ConvBlock


class FCNHead(nn.Module):
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

    num_classes: int
    channels: int = 512
    in_index: int = 3
    num_convs: int = 2
    kernel_size: int = 3
    dilation: int = 1
    concat_input: bool = True
    resize_concat: bool = False
    dropout: float = 0.1
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        if self.resize_concat:
            return {"resize_concat": True}
        return {"concat_input": False} if self.concat_input else {}

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
            fuse = FusionConv(
                "concat_input",
                self.channels,
                self.kernel_size,
                equalizer=self.equalizer,
                align_corners=self.align_corners,
                default=False,
                dtype=self.dtype,
                name="conv_cat",
            )
            x = fuse(branches, x.shape[1:3], train)
        return classify(x, self.num_classes, self.dropout, train, self.dtype)

    def _fuse(self, features, train: bool):
        branches = {f"level{i}": feature for i, feature in enumerate(features)}
        fuse = FusionConv(
            "resize_concat",
            self.channels,
            self.kernel_size,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="convs_0",
        )
        return fuse(branches, features[0].shape[1:3], train)
