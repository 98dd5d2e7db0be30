"""DUpsamplingHead: features fused on the coarsest grid, a linear decoder of label patches fitted beforehand.

Source: Tian et al., "Decoders Matter for Semantic Segmentation", CVPR 2019 (arXiv 1903.02120), of which no code was
published. The ASPP and the separable convolutions are DeepLabv3+'s (Chen et al., arXiv 1802.02611; model.py of
tensorflow/models). The paper's: low-level features are resized *down* and their maps fused there, W is fitted on
one-hot label patches and then fixed, scores are divided by a learnt temperature. Calculated back from its published
FLOPs: 48 and 256 channels, one block of two separable convolutions after the other for each low-level feature, 1x1 to
64 codes (ResNet-50) or 128 (Xception-65), a bias of W. Ours, for want of a source: ASPP in front of both encoders, its
rates, dropout, the temperature's start at 1 and its form exp(log T), which cannot cross zero.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders.aspp import atrous_pyramid
from se_jax.models.decoders.base import Decoder, fusion_conv
from se_jax.models.initializers import classifier_normal
from se_jax.models.layers import ChannelDropout, Conv, ConvBlock, SeparableConvBlock, add_bias, linear, resize

COLLECTION = "dupsampling"  # of the constants
PLACE = ("decoder", "dupsample")  # where they are in a Segmenter's collection


def tile(x, ratio: int):
    """[b, h, w, c] -> [b, h / ratio, w / ratio, ratio * ratio * c]; element (dy * ratio + dx) * c + channel."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // ratio, ratio, w // ratio, ratio, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // ratio, w // ratio, ratio * ratio * c)


def untile(x, ratio: int):
    """The inverse of `tile`: [b, h, w, ratio * ratio * c] -> [b, h * ratio, w * ratio, c]."""
    b, h, w, n = x.shape
    x = x.reshape(b, h, w, ratio, ratio, n // ratio**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * ratio, w * ratio, n // ratio**2)


class DUpsample(nn.Module):
    """Codes [b, h, w, codes] -> logits float32 [b, h * ratio, w * ratio, num_classes], (W x + mean) / T.

    W and mean are no parameters but constants, the collection `dupsampling`: `kernel` [codes, ratio^2 * num_classes],
    W transposed, and `bias`. They start as orthonormal noise and zeros; training fills them from a fit
    (`se_jax.dupsampling`). T is learnt as `log_temperature`, which no weight decay should pull to T = 1.
    """

    num_classes: int
    ratio: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.ratio**2 * self.num_classes)

        def noise():
            return nn.initializers.orthogonal()(self.make_rng("params"), shape, jnp.float32)

        kernel = self.variable(COLLECTION, "kernel", noise).value
        bias = self.variable(COLLECTION, "bias", jnp.zeros, shape[1:]).value
        temperature = jnp.exp(self.param("log_temperature", nn.initializers.zeros, (1,)))
        scores = add_bias(linear(x.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32), bias)
        return untile(scores / temperature, self.ratio)


class DUpsamplingHead(Decoder):
    """Features -> logits float32 [b, h * ratio, w * ratio, num_classes], and codes float32 [b, h, w, codes].

    h and w are those of the last feature.

    Windows of ratio x ratio pixels are put side by side: the logits can exceed the image at the bottom and right. A
    feature of the last map is centred in its window's upper left corner rather than in its middle, in torch's geometry
    as in DeepLab's; that constant shift is learnt.

    Its fusion sites are 'aspp' and, for each low-level feature, 'low0', 'low1', ... Those are off unless named: both
    branches are freshly normalised, and separable convolutions follow, whose BatchNorm takes any scale of a branch out
    again. They serve as a control.

    Attributes:
      codes: length of a window's code. ratio: input pixels to one of the last feature, the encoder's output stride.
      low_level: indices of the low-level features, fused in this order; () for none.
      low_channels: to which they are projected.
      dilations: (1, 6, 12, 18) suits an encoder of output stride 16.
    """

    channels: int = 256
    codes: int = 64
    ratio: int = 16
    low_level: tuple[int, ...] = (0,)
    low_channels: int = 48
    dilations: tuple[int, ...] = (1, 6, 12, 18)
    constants: ClassVar[Mapping[str, str]] = {
        COLLECTION: "python -m se_jax.dupsample_fit --config=FILE --workdir=DIR, with this run's config and data"
    }

    # codes mean something by the fit of W alone, which is one of the classes
    classifier: ClassVar[tuple[str, ...]] = ("code", "dupsample")

    def facts(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "codes": self.codes}

    def check(self, stride: int, crop: tuple[int, int]) -> None:
        numbers = self.ratio**2 * self.num_classes
        if self.ratio != stride:
            raise ValueError(
                f"model.decoder.ratio is {self.ratio}, but the encoder's last map has stride {stride} "
                f"(model.encoder.output_stride, 32 without that option); set the ratio to {stride}"
            )
        if not 1 <= self.codes <= numbers:
            raise ValueError(
                f"model.decoder.codes is {self.codes}; a window of {self.ratio}x{self.ratio} pixels of "
                f"{self.num_classes} classes has {numbers} numbers, so expected 1 to {numbers}"
            )
        if any(side % self.ratio > 1 for side in crop):
            below, above = (
                tuple((side + up) // self.ratio * self.ratio for side in crop) for up in (0, self.ratio - 1)
            )
            raise ValueError(
                f"data.crop is {tuple(crop)}, but the decoder's windows have {self.ratio}x{self.ratio} pixels: each "
                f"side must be a multiple of {self.ratio}, or one more, e.g. {below} or {above}"
            )

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = atrous_pyramid(self, features[-1], train, separable=True, kernel_size=1)
        size = x.shape[1:3]
        for i, index in enumerate(self.low_level):
            low = resize(features[index], size, self.align_corners)
            low = ConvBlock(self.low_channels, 1, dtype=self.dtype, name=f"low_bottleneck_{i}")(low, train)
            fuse = fusion_conv(self, f"low{i}", f"sep_bottleneck_{2 * i}", separable=True, default=False)
            x = fuse({"coarse": x, "low": low}, size, train)
            x = SeparableConvBlock(self.channels, dtype=self.dtype, name=f"sep_bottleneck_{2 * i + 1}")(x, train)
        x = ChannelDropout(self.dropout, name="dropout")(x, train)
        code = Conv(self.codes, 1, use_bias=True, kernel_init=classifier_normal, dtype=self.dtype, name="code")
        x = code(x)
        logits = DUpsample(self.num_classes, self.ratio, self.dtype, name="dupsample")(x)
        return {"logits": logits, "codes": x.astype(jnp.float32)}
