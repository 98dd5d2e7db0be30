"""VWFormerHead: three levels fused at 1/8, contexts of several sizes by varying-window attention, and level 0 again.

Source: Yan et al., ICLR 2024 (arXiv 2404.16573), as the authors' own code builds it (github.com/yan-hao-tian/VW,
VWHead and VWCityHead of its mmsegmentation).
"""

from types import SimpleNamespace
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.attention import Linear
from se_jax.models.decoders.base import Decoder, classify, fusion_conv
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.initializers import torch_uniform
from se_jax.models.layers import ConvBlock, adaptive_avg_pool
from se_jax.models.varying_window import WINDOWS, VaryingWindowAttention

RATIOS = (2, 4, 8)
STRIDE = 8  # of the map that the windows are cut from
MULTIPLE = STRIDE * WINDOWS

_ADE = {
    "channels": 512,
    "c1_channels": 48,
    "image_pool": True,
    "heads": 1,
    "shortcut": True,
    "embed": "linear",
    "upsample": "bilinear",
    "attention": "nonlocal",
}
VARIANTS = {
    "ade": _ADE,
    "cityscapes": _ADE
    | {
        "image_pool": False,
        "heads": 16,
        "shortcut": False,
        "embed": "conv",
        "upsample": "nearest",
        "attention": "multihead",
    },
    "light": _ADE | {"channels": 128, "c1_channels": 32, "image_pool": False},
}


class VWFormerHead(Decoder):
    """Four features of strides 4, 8, 16, 32, finest first -> logits float32 [b, h, w, num_classes] at stride 4.

    The sites: 'mla' fuses levels 3 to 1 at stride 8; 'branches' the short path, the image pool and the three windows'
    outputs there; 'lle' (low-level enhancement) what comes of it with level 0. 'branches' is equalized only where
    named: nothing is upsampled before it, and in a new 'nonlocal' network without shortcut the windows' outputs are
    zero, which cannot be equalized.

    Sides of images are multiples of 64: the map of stride 8 is cut into 8 x 8 windows. In training windows have even
    sides, so that each lies in the middle of its context (multiples of 128); the authors test with others too.

    Attributes:
      variant: 'ade' and 'cityscapes' are the authors' two heads. 'light' has the widths that they gave for their
        network with MiT-B0, for which they published no code; its attention, shortcut and level embeddings are
        those of 'ade', which is our choice. The next fields replace the variant's where they are not None.
      channels: of every fused map; a multiple of 64, by which they are divided before the largest contexts are cut.
      c1_channels: to which level 0 is projected.
      image_pool: whether the mean of the map is a branch.
      heads: of each attention. The authors' ADE20K networks have 1, their Cityscapes networks 16.
      shortcut: whether the map is added to each window's output: in the authors' ADE20K networks with ConvNeXt and
        Swin-B, not with Swin-L, not for Cityscapes.

    Raises:
      ValueError: for a variant that does not exist, channels that contexts or heads do not divide; in a call, for
        features of other strides, or of an image that cannot be cut into windows.
    """

    variant: str = "ade"
    channels: int | None = None
    c1_channels: int | None = None
    image_pool: bool | None = None
    heads: int | None = None
    shortcut: bool | None = None
    size_multiple: ClassVar[int] = MULTIPLE  # of an image's sides

    def __post_init__(self):
        sizes = self.sizes
        if sizes.channels < 1 or sizes.channels % max(RATIOS) ** 2:
            raise ValueError(
                f"VWFormerHead channels is {sizes.channels}; expected a multiple of {max(RATIOS) ** 2}, by which "
                f"they are divided for the largest context, e.g. {-(-max(sizes.channels, 1) // 64) * 64}."
            )
        if sizes.heads < 1 or sizes.channels % sizes.heads:
            raise ValueError(
                f"VWFormerHead heads is {sizes.heads}; expected a divisor of its channels {sizes.channels}."
            )
        super().__post_init__()

    @property
    def sizes(self) -> SimpleNamespace:
        """The variant's sizes, with this module's own fields in their place where given."""
        return variant_sizes(self, VARIANTS)

    @nn.compact
    def __call__(self, features, train: bool = False):
        _check(features, train)
        sizes, size = self.sizes, features[1].shape[1:3]
        x = self._fuse(
            "mla", "linear_fuse", {f"level{i}": self._level(i, features, train) for i in (3, 2, 1)}, size, train
        )
        branches = {"short_path": self._block("short_path")(x, train)}
        if sizes.image_pool:
            branches["image_pool"] = self._block("image_pool")(adaptive_avg_pool(x, 1), train)
        for i, ratio in enumerate(RATIOS):
            attn = VaryingWindowAttention(ratio, sizes.heads, sizes.attention, dtype=self.dtype, name=f"attn_{i}")
            y = attn(x, train)
            branches[f"ratio{ratio}"] = x + y if sizes.shortcut else y
        x = self._fuse("branches", "cat", branches, size, train, default=False)
        levels = {"fused": x, "level0": self._level(0, features, train)}
        x = self._fuse("lle", "low_level_fuse", levels, features[0].shape[1:3], train)
        return {"logits": classify(self, x, train)}

    def _level(self, index: int, features, train: bool):
        """Level `index`, embedded; repeated to the size of level 1 where the variant upsamples to the nearest pixel."""
        sizes, x = self.sizes, features[index]
        width, name = sizes.channels if index else sizes.c1_channels, f"linear_c{index + 1}"
        if sizes.embed == "linear":
            x = Linear(width, kernel_init=torch_uniform, dtype=self.dtype, name=name)(x)
        else:
            x = ConvBlock(width, 1, dtype=self.dtype, name=name)(x, train)
        if index and sizes.upsample == "nearest":
            for axis in (1, 2):
                x = jnp.repeat(x, features[1].shape[axis] // x.shape[axis], axis)
        return x

    def _block(self, name: str):
        return ConvBlock(self.sizes.channels, 1, dtype=self.dtype, name=name)

    def _fuse(self, site: str, name: str, branches, size, train: bool, default: bool = True):
        """A fusion site and the 1x1 block behind it."""
        fuse = fusion_conv(self, site, name, self.sizes.channels, kernel_size=1, default=default)
        return fuse(branches, size, train)


def _check(features, train: bool) -> None:
    """Refuses features that no image of a size that can be cut into windows has."""
    maps = [tuple(x.shape[1:3]) for x in features]
    image = [4 * length for length in maps[0]]
    if len(maps) != 4 or any(-(-side // STRIDE) != length for side, length in zip(image, maps[1], strict=True)):
        raise ValueError(
            f"VWFormerHead got features of {', '.join(f'{h} x {w}' for h, w in maps)}; expected four, the first of "
            f"stride 4 and the second of stride {STRIDE}, as of MiT, Swin, ConvNeXt or a ResNet."
        )
    multiple = 2 * MULTIPLE if train else MULTIPLE
    if any(side % multiple for side in image):
        fitting = " x ".join(str(-(-side // multiple) * multiple) for side in image)
        reason = f", so that each of the {WINDOWS} x {WINDOWS} windows has even sides" if train else ""
        advice = "set data.crop to it" if train else f"set data.crop to it, or eval.size_multiple to {multiple}"
        raise ValueError(
            f"VWFormerHead got maps of an image of {image[0]} x {image[1]}; expected sides that are multiples of "
            f"{multiple}{' in training' if train else ''}{reason}. The next size that works is {fitting}: {advice}."
        )
