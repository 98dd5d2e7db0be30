"""FPNHead: a feature pyramid, whose levels are convolved and upsampled step by step, and summed at the finest one.

Source: the semantic branch of Panoptic FPN, Kirillov et al., CVPR 2019 (arXiv 1901.02446), as
segmentation_models_pytorch 0.6 builds its FPN: pyramid of 256 channels without convolutions of its own, nearest
upsampling in it, GroupNorm, sums.
mmsegmentation's FPNHead does the same behind an FPN neck with 3x3 convolutions, with BatchNorm.
"""

from typing import ClassVar

import flax.linen as nn

from se_jax.equalizer.fusion import BlockSumConv, Fusion
from se_jax.models.decoders.base import Decoder
from se_jax.models.initializers import classifier_normal
from se_jax.models.layers import Conv, ConvBlock, resize

GROUPS = 32  # of GroupNorm


class FPNHead(Decoder):
    """Encoder features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first.

    The sum of the levels is the site 'levels'. The top-down sums are sites too ('topdown_2' and so on), equalized only
    where named: no weight follows them into which an equalizer could be folded.

    The source always has align_corners=True in the levels' upsampling and the logits'; here model.align_corners says.
    Ours: maps of any size are resized to the next finer one, where the source takes multiples of 32 only.

    Attributes:
      channels: of the pyramid. segmentation_channels: of the levels that are summed, a multiple of 32.

    Raises:
      ValueError: segmentation_channels that are no such multiple.
    """

    channels: int = 256
    segmentation_channels: int = 128

    classifier: ClassVar[tuple[str, ...]] = ("merge/block",)

    def __post_init__(self):
        if self.segmentation_channels % GROUPS:
            raise ValueError(
                f"FPNHead segmentation_channels is {self.segmentation_channels}; expected a multiple of {GROUPS}, the "
                "groups of its GroupNorm"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, features, train: bool = False):
        sizes = [x.shape[1:3] for x in features]
        levels = self._pyramid(features)
        width = self.segmentation_channels
        for i, x in enumerate(levels):
            # all but the last convolution, which belongs to the fusion; level i is upsampled i times
            for step in range(i - 1):
                x = ConvBlock(width, 3, norm="group", dtype=self.dtype, name=f"levels_{i}_{step}")(x, train)
                x = resize(x, sizes[i - step - 1], self.align_corners)
            levels[i] = x
        branches = {f"level{i}": x for i, x in enumerate(levels)}
        merge = BlockSumConv(
            "levels",
            self.num_classes,
            width,
            tuple(branches),
            norm="none",
            use_bias=True,
            kernel_init=classifier_normal,
            last_size=3,
            last_norm="group",
            dropout=self.dropout,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="merge",
        )
        return {"logits": merge(branches, sizes[0], train).astype("float32")}

    def _pyramid(self, features) -> list:
        """The maps as they come, to `channels`, each plus the next coarser one."""
        maps = [
            Conv(self.channels, 1, use_bias=True, dtype=self.dtype, name=f"lateral_{i}")(x)
            for i, x in enumerate(features)
        ]
        for i in reversed(range(len(maps) - 1)):
            options = {"default": False, "upsample": "nearest", "dtype": self.dtype}
            fuse = Fusion(self.equalizer, "sum", name=f"topdown_{i}", **options)
            maps[i] = fuse({"lateral": maps[i], "coarser": maps[i + 1]}, maps[i].shape[1:3])
        return maps
