"""Swin Transformer (https://arxiv.org/abs/2103.14030): attention in windows, shifted in every other block.

Numerically mmsegmentation 1.2.2's SwinTransformer, also where other implementations differ: padding comes before the
shift, the shift is kept on maps not larger than a window, and patch merging is channel-major.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax.models.attention import (
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    attend,
    drop_path_rates,
    from_windows,
    pad_to_multiple,
    to_windows,
)
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import conv2d

# drop paths are those of the published segmentation networks
VARIANTS = {
    "tiny": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, "drop_path": 0.3},
    "small": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "window": 7, "drop_path": 0.3},
    "base": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 7, "drop_path": 0.3},
    "large": {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 7, "drop_path": 0.3},
}
EPSILON = 1e-5
PATCH = 4
MASKED = -100.0  # the reference's; e**-100 of a weight still passes


def relative_position_index(window: int) -> np.ndarray:
    """For each pair of tokens of a window, the row of the bias table of their offset: int [window**2, window**2]."""
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row + window - 1
    columns = column[:, None] - column + window - 1
    return rows * (2 * window - 1) + columns


def shift_mask(window: int, shift: int, grid: tuple[int, int]):
    """What keeps pixels from opposite ends of the map apart that a cyclic shift has brought into one window.

    Only the last row and the last column of windows hold such pixels: their last `shift` rows or columns.

    Args:
      grid: windows of the map, (down, across).

    Returns:
      float32 [down * across, 1, window**2, window**2] for [windows, heads, queries, keys]; 0, or -100 for such a pair.
    """
    row, column = np.divmod(np.arange(window**2), window)
    apart = [(place >= window - shift)[:, None] != (place >= window - shift) for place in (row, column)]
    last_row, last_column = (np.arange(length) == length - 1 for length in grid)
    # two small constants that are combined where they are used: whole, the mask outgrows the maps of a large image
    down = jnp.asarray(last_row[:, None, None, None] & apart[0])
    across = jnp.asarray(last_column[:, None, None] & apart[1])
    mask = jnp.where(down | across, jnp.float32(MASKED), jnp.float32(0))
    return mask.reshape(-1, 1, window**2, window**2)


class WindowAttention(nn.Module):
    """Multi-head attention within windows of the map, shifted cyclically by `shift`: [b, h, w, c] -> [b, h, w, c].

    The map is padded with zeros to whole windows, before it is shifted. Padding is not masked: padded tokens take part
    with the projection's bias as their key and value.
    """

    heads: int
    window: int
    shift: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        x = pad_to_multiple(x, (self.window, self.window))
        padded = x.shape[1], x.shape[2]
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        qkv = Linear(3 * channels, dtype=self.dtype, name="qkv")(to_windows(x, self.window))
        qkv = qkv.reshape(batch, -1, self.window**2, 3, self.heads, channels // self.heads)
        bias = self._bias((padded[0] // self.window, padded[1] // self.window))
        # windows of a map have masks of their own, which all maps of the batch share
        q, k, v = jnp.moveaxis(qkv, 3, 0)
        y = jax.vmap(attend, (0, 0, 0, None))(q, k, v, bias)
        y = Linear(channels, dtype=self.dtype, name="proj")(y.reshape(-1, self.window**2, channels))
        y = from_windows(y, self.window, padded)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), (1, 2))
        return y[:, :height, :width]

    def _bias(self, grid: tuple[int, int]):
        """Biases of relative positions [heads, t, t]; in shifted windows with the mask, [windows, heads, t, t]."""
        entries = (2 * self.window - 1) ** 2
        table = self.param("bias_table", nn.initializers.zeros, (entries, self.heads))
        bias = jnp.moveaxis(table[relative_position_index(self.window)], -1, 0)
        return bias + shift_mask(self.window, self.shift, grid) if self.shift else bias


class SwinBlock(nn.Module):
    """LayerNorm and window attention, LayerNorm and MLP, both residual: [b, h, w, c] -> [b, h, w, c]."""

    heads: int
    window: int
    shift: int
    drop_path: float
    mlp_ratio: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm1")(x)
        y = WindowAttention(self.heads, self.window, self.shift, dtype=self.dtype, name="attn")(y)
        x = x + DropPath(self.drop_path)(y, train)
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_ratio * x.shape[-1], dtype=self.dtype, name="ffn")(y)
        return x + DropPath(self.drop_path)(y, train)


class PatchProjection(nn.Module):
    """4x4 convolution of stride 4, as torch initialises it: [b, h, w, 3] -> [b, ceil(h / 4), ceil(w / 4), features]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        fan_in = PATCH**2 * x.shape[-1]

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)

        kernel = self.param("kernel", uniform, (PATCH, PATCH, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", uniform, (self.features,)).astype(self.dtype)
        return conv2d(pad_to_multiple(x, (PATCH, PATCH)).astype(self.dtype), kernel, strides=PATCH) + bias


class PatchMerging(nn.Module):
    """2x2 pixels to one: [b, h, w, c] -> [b, ceil(h / 2), ceil(w / 2), 2 c], by LayerNorm and a linear map.

    The four pixels of a channel lie together (torch's unfold): channel * 4 + row * 2 + column.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = pad_to_multiple(x, (2, 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)
        x = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)
        return Linear(2 * channels, use_bias=False, dtype=self.dtype, name="reduction")(x)


class Swin(nn.Module):
    """Swin encoder: image [b, h, w, 3] -> four maps of strides 4, 8, 16, 32, finest first; odd sizes are rounded up.

    Attributes:
      variant: 'tiny', 'small', 'base' or 'large'; the following fields replace its sizes where they are not None.
      width: channels of the first map; each further one has twice as many.
      depths: blocks of the four stages. The second, fourth, ... of a stage shift their windows.
      heads: attention heads of the four stages.
      window: side of a window in pixels of its map: 7, or 12 for weights trained at 384 x 384.
      drop_path: the last block's rate of stochastic depth; the others' rise to it from zero, in equal steps.
      mlp_ratio: hidden channels of the MLPs, in multiples of the map's.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, not four depths or heads, heads that do not divide the channels of
        their stage, a window below 1, or a drop path outside [0, 1).
    """

    variant: str = "tiny"
    width: int | None = None
    depths: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    window: int | None = None
    drop_path: float | None = None
    mlp_ratio: int = 4
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        for name in ("depths", "heads"):
            value = getattr(sizes, name)
            if len(value) != 4 or min(value) < 1:
                raise ValueError(f"Swin {name} is {value}; expected four positive numbers, one a stage.")
        if sizes.width < 1 or any(c % heads for c, heads in zip(self.channels, sizes.heads, strict=True)):
            raise ValueError(f"Swin heads {sizes.heads} do not divide its channels {self.channels}.")
        if sizes.window < 1:
            raise ValueError(f"Swin window is {sizes.window}; expected a positive number.")
        if not 0 <= sizes.drop_path < 1:
            raise ValueError(f"Swin drop_path is {sizes.drop_path}; expected a rate from 0 to below 1.")
        super().__post_init__()

    @property
    def sizes(self):
        """The variant's sizes, with the fields that replace them."""
        return variant_sizes(self, VARIANTS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(self.sizes.width * 2**stage for stage in range(4))

    @nn.compact
    def __call__(self, x, train: bool = False):
        sizes = self.sizes
        block = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock
        x = PatchProjection(sizes.width, dtype=self.dtype, name="patch_embed_projection")(x)
        x = LayerNorm(EPSILON, dtype=self.dtype, name="patch_embed_norm")(x)
        maps = []
        for stage, rates in enumerate(drop_path_rates(sizes.drop_path, sizes.depths)):
            if stage:
                x = PatchMerging(dtype=self.dtype, name=f"stages_{stage - 1}_downsample")(x)
            for index, rate in enumerate(rates):
                x = block(
                    sizes.heads[stage],
                    sizes.window,
                    shift=index % 2 * (sizes.window // 2),
                    drop_path=rate,
                    mlp_ratio=self.mlp_ratio,
                    dtype=self.dtype,
                    name=f"stages_{stage}_blocks_{index}",
                )(x, train)
            # the norm is the output's alone: the next stage reads the map before it
            maps.append(LayerNorm(EPSILON, dtype=self.dtype, name=f"norm{stage}")(x))
        return tuple(maps)
