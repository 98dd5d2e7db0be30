"""Twins-SVT and Twins-PCPVT (https://arxiv.org/abs/2104.13840).

Numerically mmsegmentation 1.2.2's SVT and PCPVT, their habits included: see `LocalAttention` and `TwinsBlock`.
"""

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from se_jax.models.attention import (
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    SelfAttention,
    attend,
    depthwise_normal,
    drop_path_rates,
    from_windows,
    pad_to_multiple,
    require_reducible,
    to_windows,
)
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import Conv

_SVT = {"mlp_ratios": (4, 4, 4, 4), "reductions": (8, 4, 2, 1), "window": 7}
_PCPVT = {
    "widths": (64, 128, 320, 512),
    "heads": (1, 2, 5, 8),
    "mlp_ratios": (8, 8, 4, 4),
    "reductions": (8, 4, 2, 1),
    "window": None,
}
VARIANTS = {
    "svt_small": {
        "widths": (64, 128, 256, 512),
        "depths": (2, 2, 10, 4),
        "heads": (2, 4, 8, 16),
        "drop_path": 0.2,
        **_SVT,
    },
    "svt_base": {
        "widths": (96, 192, 384, 768),
        "depths": (2, 2, 18, 2),
        "heads": (3, 6, 12, 24),
        "drop_path": 0.2,
        **_SVT,
    },
    "svt_large": {
        "widths": (128, 256, 512, 1024),
        "depths": (2, 2, 18, 2),
        "heads": (4, 8, 16, 32),
        "drop_path": 0.3,
        **_SVT,
    },
    "pcpvt_small": {"depths": (3, 4, 6, 3), "drop_path": 0.2, **_PCPVT},
    "pcpvt_base": {"depths": (3, 4, 18, 3), "drop_path": 0.3, **_PCPVT},
    "pcpvt_large": {"depths": (3, 8, 27, 3), "drop_path": 0.3, **_PCPVT},
}
PATCHES = (4, 2, 2, 2)  # kernel and stride of each stage's patch embedding
EPSILON = 1e-5  # of every LayerNorm
MASKED = -1000.0


class PatchEmbed(nn.Module):
    """One linear map a patch, and LayerNorm: [b, h, w, c] -> [b, ceil(h / patch), ceil(w / patch), features].

    A remainder at the bottom and right is filled up with zeros.
    """

    features: int
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        projection = Conv(
            self.features,
            self.patch,
            strides=self.patch,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            name="projection",
        )
        x = projection(pad_to_multiple(x, (self.patch, self.patch)))
        return LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)


class PositionEncoding(nn.Module):
    """Adds a 3x3 depthwise convolution of the map to it: [b, h, w, c] -> [b, h, w, c].

    Conditional positional encoding (https://arxiv.org/abs/2102.10882): the padding's zeros tell where a pixel is.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        proj = Conv(
            channels,
            groups=channels,
            use_bias=True,
            kernel_init=depthwise_normal,
            dtype=self.dtype,
            name="proj",
        )
        return x + proj(x)


def padding_bias(size: tuple[int, int], window: int) -> np.ndarray | None:
    """What the reference adds to a map's attention logits, by window and key: [windows, 1, 1, window**2], or None.

    The reference separates padding from real pixels by -1000, but only where a map of `size` is padded at the bottom
    *and* at the right: else its slice of the padding, [-0:], is the whole map, nothing is separated, and real pixels
    attend to padded ones, too. It masks pairs; what a padded query sees does not matter, as its output is cut off.
    """
    height, width = size
    rows, columns = -height % window, -width % window
    if rows == 0 or columns == 0:
        return None
    padded = np.full((1, height + rows, width + columns, 1), MASKED, np.float32)
    padded[:, :height, :width] = 0
    return to_windows(padded, window)[:, None, None, :, 0]


class LocalAttention(nn.Module):
    """Self-attention within windows: [b, h, w, c] -> [b, h, w, c]; a map is padded with zeros to whole windows."""

    heads: int
    window: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        padded = pad_to_multiple(x, (self.window, self.window))
        qkv = Linear(3 * channels, dtype=self.dtype, name="qkv")(to_windows(padded, self.window))
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1) for part in jnp.split(qkv, 3, axis=-1))
        bias = padding_bias((height, width), self.window)
        y = attend(q, k, v, None if bias is None else np.tile(bias, (batch, 1, 1, 1)))
        y = from_windows(y.reshape(*y.shape[:2], channels), self.window, (padded.shape[1], padded.shape[2]))
        return Linear(channels, dtype=self.dtype, name="proj")(y[:, :height, :width])


class TwinsBlock(nn.Module):
    """Local or global attention and MLP, each behind a LayerNorm and added: [b, h, w, c] -> [b, h, w, c].

    As in the reference, drop path acts twice, with independent draws, on the MLP's branch and on global attention's:
    such a branch stays with probability (1 - drop_path)**2. On local attention's it acts once.

    Attributes:
      window: of local attention; None makes the attention global.
    """

    heads: int
    reduction: int
    window: int | None
    hidden: int
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm1")(x)
        if self.window is None:
            y = SelfAttention(self.heads, self.reduction, EPSILON, dtype=self.dtype, name="attn")(y)
            y = DropPath(self.drop_path)(y, train)
        else:
            y = LocalAttention(self.heads, self.window, dtype=self.dtype, name="attn")(y)
        x = x + DropPath(self.drop_path)(y, train)
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.hidden, dtype=self.dtype, name="ffn")(y)
        y = DropPath(self.drop_path)(y, train)
        return x + DropPath(self.drop_path)(y, train)


class Twins(nn.Module):
    """Twins encoder: image [b, h, w, 3] -> maps at 1/4, 1/8, 1/16 and 1/32, finest first; odd sizes are rounded up.

    SVT's blocks are local (the first of a stage) and global in turn; a LayerNorm ends each stage, is part of its map,
    and the next stage starts from the normalised map. PCPVT's blocks are all global, its maps are not normalised.

    Attributes:
      variant: 'svt_small', 'svt_base', 'svt_large', 'pcpvt_small', 'pcpvt_base' or 'pcpvt_large'. The next fields
        replace the variant's own where they are not None.
      widths, depths, heads: channels, blocks and attention heads of the four stages.
      mlp_ratios: hidden channels of the MLPs in multiples of the stage's.
      reductions: by which keys and values of global attention are reduced; no map may be smaller.
      window: side of SVT's windows; PCPVT has none.
      drop_path: rate of the last block; the first block's is 0.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, or sizes that do not fit; in a call, for too small an image.
    """

    variant: str = "svt_small"
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    mlp_ratios: tuple[int, ...] | None = None
    reductions: tuple[int, ...] | None = None
    window: int | None = None
    drop_path: float | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        for name in ("widths", "depths", "heads", "mlp_ratios", "reductions"):
            values = getattr(sizes, name)
            if len(values) != len(PATCHES) or min(values) < 1:
                raise ValueError(f"Twins {name} is {values}; expected {len(PATCHES)} positive numbers, one a stage.")
        if any(width % heads for width, heads in zip(sizes.widths, sizes.heads, strict=True)):
            raise ValueError(f"Twins widths {sizes.widths} are not multiples of its heads {sizes.heads}.")
        if self.window is not None and (not self.has_windows or self.window < 1):
            raise ValueError(
                f"Twins window is {self.window} with variant {self.variant!r}; expected a positive number with an SVT "
                "variant, None with a PCPVT one."
            )
        if not 0 <= sizes.drop_path < 1:
            raise ValueError(f"Twins drop_path is {sizes.drop_path}; expected a rate in [0, 1).")
        super().__post_init__()

    @property
    def sizes(self) -> SimpleNamespace:
        """The variant's sizes, with this module's own fields in their place where given."""
        return variant_sizes(self, VARIANTS)

    @property
    def has_windows(self) -> bool:
        """Whether this is an SVT: every other block local, maps normalised."""
        return VARIANTS[self.variant]["window"] is not None

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return self.sizes.widths

    @nn.compact
    def __call__(self, x, train: bool = False):
        sizes = self.sizes
        require_reducible(self, x, sizes.reductions)
        block = nn.remat(TwinsBlock, static_argnums=(2,)) if self.remat else TwinsBlock
        maps = []
        for stage, rates in enumerate(drop_path_rates(sizes.drop_path, sizes.depths)):
            width = sizes.widths[stage]
            x = PatchEmbed(width, PATCHES[stage], dtype=self.dtype, name=f"patch_embeds_{stage}")(x)
            for index, rate in enumerate(rates):
                x = block(
                    sizes.heads[stage],
                    sizes.reductions[stage],
                    window=sizes.window if index % 2 == 0 else None,
                    hidden=sizes.mlp_ratios[stage] * width,
                    drop_path=rate,
                    dtype=self.dtype,
                    name=f"layers_{stage}_{index}",
                )(x, train)
                if index == 0:
                    x = PositionEncoding(dtype=self.dtype, name=f"position_encodings_{stage}")(x)
            if self.has_windows:
                x = LayerNorm(EPSILON, dtype=self.dtype, name=f"norm_list_{stage}")(x)
            maps.append(x)
        return tuple(maps)
