"""VWMask2FormerHead: Mask2Former whose pixel decoder fuses levels and looks at contexts as VWFormer does.

Source: Yan et al., ICLR 2024 (arXiv 2404.16573), as the authors' own code builds it (github.com/yan-hao-tian/VW, its
Mask2Former, mask2former/modeling/pixel_decoder/fpn.py: BasePixelDecoder is variant 'a', VWDeformAttnPixelDecoder 'b').
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from se_jax.equalizer.fusion import Equalizer, FusionConv
from se_jax.models.decoders.mask2former import Mask2FormerHead
from se_jax.models.decoders.vwformer import MULTIPLE, RATIOS
from se_jax.models.deformable import DeformableEncoder
from se_jax.models.initializers import torch_uniform
from se_jax.models.layers import Conv, ConvBlock, GroupNorm, adaptive_avg_pool
from se_jax.models.varying_window import WINDOWS, VaryingWindowAttention

VARIANTS = ("a", "b")


class VaryingWindows(nn.Module):
    """The finest feature and three coarser maps, finest first -> mask features [b, h / 4, w / 4, mask_channels].

    The maps are fused at 1/8 (site 'mla'); a short path, a pool of the image and windows' contexts are fused there
    ('branches'), and at 1/4 what comes of it with the finest feature ('lle'). One GroupNorm serves all convolutions at
    1/8 but those inside the windows.

    Attributes:
      channels: of the maps at 1/8. low_channels: to which the finest feature is projected.
      image_pool: whether the mean of the map is a branch.
    """

    mask_channels: int
    channels: int
    low_channels: int
    heads: int
    image_pool: bool
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, finest, maps, train: bool = False):
        _check((finest, *maps))
        norm, size = GroupNorm(dtype=self.dtype, name="norm"), maps[0].shape[1:3]

        def embed(name: str, x):
            conv = Conv(self.channels, 1, kernel_init=torch_uniform, dtype=self.dtype, name=name)
            return nn.relu(norm(conv(x)))

        levels = {f"level{i}": _repeat(embed(f"linear_c{i + 1}", maps[i - 1]), size) for i in (3, 2, 1)}
        x = nn.relu(norm(self._fuse("mla", "linear_fuse", norm="none", default=False)(levels, size)))
        branches = {"short_path": embed("short_path_0", x)}
        if self.image_pool:
            branches["image_pool"] = embed("image_pool_0", adaptive_avg_pool(x, 1))
        for i, ratio in enumerate(RATIOS):
            attend = VaryingWindowAttention(
                ratio, self.heads, "multihead", torch_embed=True, dtype=self.dtype, name=f"attn_{i}"
            )
            branches[f"ratio{ratio}"] = attend(x, train)
        x = nn.relu(norm(self._fuse("branches", "cat_0", norm="none", default=False)(branches, size)))
        low = ConvBlock(self.low_channels, 1, kernel_init=torch_uniform, dtype=self.dtype, name="linear_c1")
        fuse = self._fuse("lle", "low_level_fuse", self.mask_channels, norm="group")
        return fuse({"fused": x, "level0": low(finest, train)}, finest.shape[1:3])

    def _fuse(self, site: str, name: str, channels: int | None = None, **options):
        """A fusion site and the 1x1 convolution behind it."""
        return FusionConv(
            site,
            channels or self.channels,
            kernel_size=1,
            kernel_init=torch_uniform,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name=name,
            **options,
        )


class VWPixelDecoder(nn.Module):
    """Four features, finest first -> (mask features [b, h / 4, w / 4, mask_channels], maps, coarsest first).

    Attributes:
      encoder: of the three coarser features; None: they are projected to `channels` for the queries, and the windows
        get the features themselves and an image pool.
      vw_channels, low_channels, vw_heads: of VaryingWindows.
    """

    encoder: DeformableEncoder | None
    channels: int
    mask_channels: int
    vw_channels: int
    low_channels: int
    vw_heads: int
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool = False):
        finest, *maps = (x.astype(self.dtype) for x in features)
        if self.encoder is None:
            memories = [self._project(f"proj_{i}")(x) for i, x in enumerate(maps)][::-1]
        else:
            memories = self.encoder(maps)
            maps = memories[::-1]
        windows = VaryingWindows(
            self.mask_channels,
            self.vw_channels,
            self.low_channels,
            self.vw_heads,
            image_pool=self.encoder is None,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="windows",
        )
        return windows(finest, maps, train), memories

    def _project(self, name: str):
        return ConvBlock(self.channels, 1, norm="group", kernel_init=torch_uniform, dtype=self.dtype, name=name)


class VWMask2FormerHead(Mask2FormerHead):
    """Mask2FormerHead with VWFormer's windows in its pixel decoder; images are padded to multiples of 64.

    The sites, in the order in which they run: 'mla' and 'branches', which nothing is resized for but by repetition and
    which are equalized only where named; 'lle', low-level enhancement.

    Attributes:
      variant: 'a' has no deformable attention, and an image pool; 'b' puts the windows behind it. pixel_layers and the
        like are those of 'b'.
      vw_channels: of the maps at 1/8; a multiple of 64, by which they are divided for the largest context.
      vw_heads: of each window's attention. low_channels: to which the finest feature is projected.
    """

    variant: str = "a"
    vw_channels: int = 512
    vw_heads: int = 16
    low_channels: int = 48
    pad_to: ClassVar[int] = MULTIPLE

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"VWMask2FormerHead variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}.")
        if self.vw_channels < 1 or self.vw_channels % max(RATIOS) ** 2 or self.vw_channels % self.vw_heads:
            raise ValueError(
                f"VWMask2FormerHead vw_channels is {self.vw_channels}; expected a multiple of {max(RATIOS) ** 2} and "
                f"of vw_heads={self.vw_heads}."
            )
        super().__post_init__()

    def pixel_decoder(self, **scope):
        deformable = self.variant == "b"
        return VWPixelDecoder(
            self.deformable_encoder() if deformable else None,
            self.channels,
            self.mask_channels or self.channels,
            self.vw_channels,
            self.low_channels,
            self.vw_heads,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            # as the authors': with deformable attention all of it is float32
            dtype=jnp.float32 if deformable else self.dtype,
            **scope,
        )


def _repeat(x, size):
    """The nearest pixel's value at `size`, a multiple of the map's."""
    for axis, length in zip((1, 2), size, strict=True):
        x = jnp.repeat(x, length // x.shape[axis], axis)
    return x


def _check(features) -> None:
    """Refuses features that no image of a size that can be cut into windows has."""
    sizes = [tuple(x.shape[1:3]) for x in features]
    height, width = sizes[0]
    wanted = [(height >> level, width >> level) for level in range(4)]
    if sizes != wanted or height % (2 * WINDOWS) or width % (2 * WINDOWS):
        raise ValueError(
            f"VWMask2FormerHead got features of {', '.join(f'{h} x {w}' for h, w in sizes)}; expected four of strides "
            f"4, 8, 16 and 32, of an image whose sides are multiples of {MULTIPLE}."
        )
