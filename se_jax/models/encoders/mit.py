"""MixVisionTransformer, SegFormer's encoder MiT B0 to B5 (https://arxiv.org/abs/2105.15203).

Numerically mmsegmentation 1.2.2's MixVisionTransformer.
"""

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.attention import (
    DropPath,
    LayerNorm,
    SelfAttention,
    depthwise_normal,
    drop_path_rates,
    gelu,
    require_reducible,
)
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import Conv

_COMMON = {"heads": (1, 2, 5, 8), "mlp_ratio": 4, "reductions": (8, 4, 2, 1), "drop_path": 0.1}
VARIANTS = {
    "b0": {"width": 32, "depths": (2, 2, 2, 2), **_COMMON},
    "b1": {"width": 64, "depths": (2, 2, 2, 2), **_COMMON},
    "b2": {"width": 64, "depths": (3, 4, 6, 3), **_COMMON},
    "b3": {"width": 64, "depths": (3, 4, 18, 3), **_COMMON},
    "b4": {"width": 64, "depths": (3, 8, 27, 3), **_COMMON},
    "b5": {"width": 64, "depths": (3, 6, 40, 3), **_COMMON},
}
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # kernel and stride of each stage's patch embedding
EPSILON = 1e-6  # of every LayerNorm


class OverlapPatchEmbed(nn.Module):
    """Strided convolution whose patches overlap, and LayerNorm: [b, h, w, c] -> [b, ceil(h / s), ceil(w / s), out]."""

    features: int
    kernel_size: int
    strides: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        projection = Conv(
            self.features, self.kernel_size, strides=self.strides, use_bias=True, dtype=self.dtype, name="projection"
        )
        return LayerNorm(EPSILON, dtype=self.dtype, name="norm")(projection(x))


class MixFFN(nn.Module):
    """1x1 convolution to `hidden` channels, 3x3 depthwise convolution, GELU, 1x1 back: [b, h, w, c] -> [b, h, w, c].

    The zeros that the 3x3 convolution pads with tell the network where it is: there is no other positional encoding.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        common = {"use_bias": True, "dtype": self.dtype}
        y = Conv(self.hidden, 1, **common, name="layers_0")(x)
        y = Conv(self.hidden, 3, groups=self.hidden, kernel_init=depthwise_normal, **common, name="layers_1")(y)
        return Conv(x.shape[-1], 1, **common, name="layers_4")(gelu(y))


class MixTransformerBlock(nn.Module):
    """Spatial-reduction attention and Mix-FFN, each behind a LayerNorm and added: [b, h, w, c] -> [b, h, w, c]."""

    heads: int
    reduction: int
    hidden: int
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm1")(x)
        y = SelfAttention(self.heads, self.reduction, EPSILON, dtype=self.dtype, name="attn")(y)
        x = x + DropPath(self.drop_path)(y, train)
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm2")(x)
        y = MixFFN(self.hidden, dtype=self.dtype, name="ffn")(y)
        return x + DropPath(self.drop_path)(y, train)


class MixVisionTransformer(nn.Module):
    """MiT encoder: image [b, h, w, 3] -> maps at 1/4, 1/8, 1/16 and 1/32, finest first; odd sizes are rounded up.

    The LayerNorm at the end of a stage is part of its map, and the next stage starts from the normalised map.

    Attributes:
      variant: 'b0' to 'b5'. The next fields replace the variant's own where they are not None.
      width: channels of a head; a stage has `width * heads`.
      depths, heads: blocks and attention heads of the four stages.
      mlp_ratio: hidden channels of the Mix-FFN in multiples of the stage's.
      reductions: by which keys and values are reduced, by stage; no map may be smaller.
      drop_path: rate of the last block; the first block's is 0.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, or sizes that do not fit; in a call, for too small an image.
    """

    variant: str = "b0"
    width: int | None = None
    depths: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    mlp_ratio: int | None = None
    reductions: tuple[int, ...] | None = None
    drop_path: float | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        for name in ("depths", "heads", "reductions"):
            values = getattr(sizes, name)
            if len(values) != len(PATCHES) or min(values) < 1:
                raise ValueError(
                    f"MixVisionTransformer {name} is {values}; expected {len(PATCHES)} positive numbers, one a stage."
                )
        for name in ("width", "mlp_ratio"):
            if (value := getattr(sizes, name)) < 1:
                raise ValueError(f"MixVisionTransformer {name} is {value}; expected a positive number.")
        if not 0 <= sizes.drop_path < 1:
            raise ValueError(f"MixVisionTransformer drop_path is {sizes.drop_path}; expected a rate in [0, 1).")
        super().__post_init__()

    @property
    def sizes(self) -> SimpleNamespace:
        """The variant's sizes, with this module's own fields in their place where given."""
        return variant_sizes(self, VARIANTS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(self.sizes.width * heads for heads in self.sizes.heads)

    @nn.compact
    def __call__(self, x, train: bool = False):
        sizes = self.sizes
        require_reducible(self, x, sizes.reductions)
        block = nn.remat(MixTransformerBlock, static_argnums=(2,)) if self.remat else MixTransformerBlock
        maps = []
        for stage, rates in enumerate(drop_path_rates(sizes.drop_path, sizes.depths)):
            kernel_size, strides = PATCHES[stage]
            channels = self.channels[stage]
            x = OverlapPatchEmbed(channels, kernel_size, strides, dtype=self.dtype, name=f"layers_{stage}_0")(x)
            for index, rate in enumerate(rates):
                x = block(
                    sizes.heads[stage],
                    sizes.reductions[stage],
                    hidden=sizes.mlp_ratio * channels,
                    drop_path=rate,
                    dtype=self.dtype,
                    name=f"layers_{stage}_1_{index}",
                )(x, train)
            x = LayerNorm(EPSILON, dtype=self.dtype, name=f"layers_{stage}_2")(x)
            maps.append(x)
        return tuple(maps)
