"""LinkNetHead: an encoder's maps one after the other, coarsest first, each added to the upsampled sum of those before.

Source: Chaurasia & Culurciello, VCIP 2017 (arXiv 1707.03718), as segmentation_models_pytorch 0.6 builds its Linknet: a
block is a 1x1 convolution to a quarter of the channels, a transposed 4x4 convolution of stride 2, and a 1x1 convolution
to the channels of the map that is added. mmsegmentation has none.
"""

import flax.linen as nn

from se_jax.equalizer.fusion import BlockSumConv
from se_jax.models.decoders.base import Decoder, classify
from se_jax.models.decoders.unet import check_blocks
from se_jax.models.initializers import torch_uniform
from se_jax.models.layers import BatchNorm, ConvBlock


class LinkNetHead(Decoder):
    """Encoder features, finest first -> logits float32 [b, h, w, num_classes], 2^n times as large as the first.

    The site of a block is named after the map that it adds: 'skip_2', 'skip_1', 'skip_0'. The n blocks that are left
    when there are no maps left keep the channels and fuse nothing; the last has `channels`. As with UNetHead, the
    source's CNNs have one map more, of stride 2. Ours: a map that was upsampled is cut to the size of the one that is
    added, where the source takes multiples of 32 only; logits are cut to the image.

    Attributes:
      channels: of the last block.
      blocks: one more than the maps that are added at least.

    Raises:
      ValueError: fewer blocks than that.
    """

    channels: int = 32
    blocks: int = 5

    @nn.compact
    def __call__(self, features, train: bool = False):
        *skips, x = features
        check_blocks(self, self.blocks - 1, len(skips))
        # a block's first convolution belongs to the fusion before it, and so does the last one of the block before
        x = ConvBlock(_reduced(x), 1, dtype=self.dtype, name="blocks_0_reduce")(x, train)
        for i in range(self.blocks):
            x = self._upsample(x, i, train)
            if skips:
                skip = skips.pop()
                size, width = skip.shape[1:3], skip.shape[3]
                x = self._fuse(f"skip_{len(skips)}", f"fuse_{i}", width)(
                    {"coarser": x[:, : size[0], : size[1]], "skip": skip}, size, train
                )
                continue
            width = self.channels if i == self.blocks - 1 else width
            x = ConvBlock(width, 1, dtype=self.dtype, name=f"blocks_{i}_expand")(x, train)
            if i < self.blocks - 1:
                x = ConvBlock(_reduced(x), 1, dtype=self.dtype, name=f"blocks_{i + 1}_reduce")(x, train)
        return {"logits": classify(self, x, train)}

    def _upsample(self, x, block: int, train: bool):
        """The transposed convolution: output 2 i + k - 1 sees input i through tap k; both sides are doubled."""
        up = nn.ConvTranspose(
            x.shape[-1],
            (4, 4),
            strides=(2, 2),
            padding=((2, 2), (2, 2)),
            kernel_init=torch_uniform,
            dtype=self.dtype,
            name=f"blocks_{block}_up",
        )
        return nn.relu(BatchNorm(dtype=self.dtype, name=f"blocks_{block}_bn")(up(x), train))

    def _fuse(self, site: str, name: str, width: int) -> BlockSumConv:
        return BlockSumConv(
            site,
            max(width // 4, 1),
            width,
            ("coarser",),
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name=name,
        )


def _reduced(x) -> int:
    return max(x.shape[-1] // 4, 1)
