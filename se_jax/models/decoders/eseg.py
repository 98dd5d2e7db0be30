"""ESegHead: a pyramid up to P9, fused by BiFPN cells, summed with learnt weights and classified at stride 4.

Source: Meng et al., "Revisiting Multi-Scale Feature Fusion for Semantic Segmentation", 2022
(https://arxiv.org/abs/2203.12683). No code of it was published. The paper's: levels up to P9 (1/512) made without
dilation, BiFPN, a last sum whose weights are learnt by a softmax, a channel each, and can be folded into constants;
ESeg-Lite's blocks. Ours, after EfficientDet and Google's segmentation head of BiFPN: P2 as the finest level, how P6 to
P9 are made, that softmax in every node too, bilinear upsampling and maximum pooling, the order of a node's layers, the
convolution before the classifier, and the widths and repeats of S, M and L (see `se_jax/config/networks.py`), which are
remembered numbers that fit the sizes reported for these networks.
"""

from dataclasses import field

import flax.linen as nn

from se_jax.equalizer.fusion import Fusion
from se_jax.models.bifpn import ENCODER_TOP, MOMENTUM, BiFPN, SeparableOp
from se_jax.models.decoders.base import Decoder, classify
from se_jax.models.layers import resize_nearest

LOWEST = 2  # the encoder's first map is P2, of stride 4


class ESegHead(Decoder):
    """Four maps of strides 4, 8, 16, 32, finest first -> logits float32 [b, h, w, num_classes] at stride 4.

    Images must be large enough for the coarsest level to be smaller than the one below it; others are refused in
    training, and in inference have several levels of one pixel. Fusion sites: those of `BiFPN`, and the last one,
    'sum', over all levels at stride 4, which alone is equalized by default. None can be folded: their weights are
    normalised, and an activation stands between them and the next convolution.

    Attributes:
      channels, repeats: width and number of the BiFPN cells; by default ESeg-S's, for an EfficientNet-B1.
      top_level: the coarsest level, 9 as the paper has it; fewer for small images.
      fusion, upsample, downsample, activation, momentum: as BiFPN's; ESeg-Lite has 'relu'.

    Raises:
      ValueError: as BiFPN; or, in training, for images too small for the top level.
    """

    channels: int = 96
    repeats: int = 4
    top_level: int = 9
    fusion: str = "channel_softmax"
    upsample: str = "bilinear"
    downsample: str = "max"
    activation: str = "silu"
    momentum: float = MOMENTUM
    dropout: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        self._pyramid(parent=None)  # which knows what its options may be
        super().__post_init__()

    def _pyramid(self, **scope) -> BiFPN:
        return BiFPN(
            self.channels,
            self.repeats,
            LOWEST,
            self.top_level,
            self.fusion,
            self.upsample,
            self.downsample,
            self.activation,
            self.momentum,
            self.align_corners,
            self.equalizer,
            self.dtype,
            **scope,
        )

    @nn.compact
    def __call__(self, features, train: bool = False):
        if train:
            self._check(features[0].shape[1:3])
        levels = self._pyramid(name="bifpn")(features, train)
        size = levels[0].shape[1:3]
        if self.upsample == "nearest":
            levels = [resize_nearest(x, size) for x in levels]
        branches = {f"p{level}": x for level, x in enumerate(levels, LOWEST)}
        fuse = Fusion(self.equalizer, self.fusion, self.align_corners, dtype=self.dtype, name="sum")
        x = SeparableOp(self.activation, self.momentum, self.dtype, name="sep_conv")(fuse(branches, size), train)
        return {"logits": classify(self, x, train)}

    def _check(self, size: tuple[int, int]) -> None:
        """Refuses images whose top level would repeat the one pixel of the level below."""
        works = max(ENCODER_TOP, LOWEST + (max(size) - 1).bit_length())  # the sizes are those of P2
        if self.top_level > works:
            raise ValueError(
                f"ESegHead got crops of about {4 * size[0]}x{4 * size[1]} pixels, too small for level "
                f"P{self.top_level}: P{self.top_level - 1} is a single pixel already. Use crops whose longer side is "
                f"at least {2 ** (self.top_level - 1) + 1} pixels, or decoder.top_level={works}"
            )
