"""UNetHead: an encoder's maps one after the other, coarsest first, each upsampled, concatenated and convolved twice.

Source: Ronneberger et al., MICCAI 2015 (arXiv 1505.04597), as segmentation_models_pytorch 0.6 builds its Unet: padded
convolutions with BatchNorm, nearest upsampling, blocks of 256, 128, 64, 32 and 16 channels, logits at the image's
resolution. mmsegmentation's UNet is an encoder and decoder of its own and takes no other encoder.
"""

from typing import ClassVar

import flax.linen as nn

from se_jax.models.decoders.base import Decoder, fusion_conv
from se_jax.models.initializers import classifier_normal
from se_jax.models.layers import UPSAMPLES, ChannelDropout, Conv, ConvBlock, resize, resize_nearest


class UNetHead(Decoder):
    """Encoder features, finest first -> logits float32 [b, h, w, num_classes], 2^n times as large as the first.

    The site of a block is named after the map that it takes: 'skip_2', 'skip_1', 'skip_0'. The n blocks that are left
    when there are no maps left double the resolution and fuse nothing.

    The source's CNNs hand out a map of stride 2, and four blocks fuse; its transformers do not, and three do. So it is
    here: encoders begin with stride 4, but a ResNet with model.encoder.outputs=('conv1_3', 'layer1', ..), or 'conv1' of
    V1b, has both. Ours: maps of any size are resized to the next finer one, and logits are cut to the image.

    Attributes:
      channels: of the first block; each further one has half of them.
      blocks: with four maps, five for the image's resolution, three for that of the finest map.
      upsample: 'nearest' or 'bilinear'.

    Raises:
      ValueError: fewer blocks than maps to fuse, more than halves of the channels, or another upsampling.
    """

    channels: int = 256
    blocks: int = 5
    upsample: str = "nearest"

    classifier: ClassVar[tuple[str, ...]] = ("conv_seg",)

    def __post_init__(self):
        if self.upsample not in UPSAMPLES:
            raise ValueError(f"UNetHead upsample is {self.upsample!r}; expected one of {', '.join(UPSAMPLES)}")
        if self.channels >> (self.blocks - 1) < 1:
            raise ValueError(
                f"UNetHead has {self.channels} channels, which cannot be halved for each of {self.blocks} blocks; "
                "give more model.decoder.channels or fewer model.decoder.blocks"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, features, train: bool = False):
        *skips, x = features
        check_blocks(self, self.blocks, len(skips))
        for i in range(self.blocks):
            width, name = self.channels >> i, f"blocks_{i}"
            if skips:
                skip, site = skips.pop(), f"skip_{len(skips)}"
                fuse = fusion_conv(self, site, f"{name}_conv1", width, upsample=self.upsample)
                x = fuse({"coarser": x, "skip": skip}, skip.shape[1:3], train)
            else:
                size = (2 * x.shape[1], 2 * x.shape[2])
                x = resize_nearest(x, size) if self.upsample == "nearest" else resize(x, size, self.align_corners)
                x = ConvBlock(width, 3, dtype=self.dtype, name=f"{name}_conv1")(x, train)
            x = ConvBlock(width, 3, dtype=self.dtype, name=f"{name}_conv2")(x, train)
        x = ChannelDropout(self.dropout, name="dropout")(x, train)
        options = {"use_bias": True, "kernel_init": classifier_normal, "dtype": self.dtype}
        logits = Conv(self.num_classes, 3, name="conv_seg", **options)(x)
        return {"logits": logits.astype("float32")}


def check_blocks(head: Decoder, blocks: int, skips: int) -> None:
    """Raises ValueError where there are maps that no block would take."""
    if blocks < max(skips, 1):
        raise ValueError(
            f"{type(head).__name__} has {blocks} blocks for {skips} maps to fuse beside the coarsest; give "
            "model.decoder.blocks of that many at least, or fewer of model.encoder.outputs"
        )
