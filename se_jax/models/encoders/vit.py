"""ViT, plain vision transformers: DINOv2 (https://arxiv.org/abs/2304.07193), DINOv3 (https://arxiv.org/abs/2508.10104),
and those of timm (augreg, DeiT, MAE).

Numerically facebookresearch/dinov2 and facebookresearch/dinov3, and timm 1.0's VisionTransformer. All blocks work on
one grid of patches, whose stride is the patch.
"""

import math
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_jax.models.attention import DropPath, LayerNorm, Linear, Mlp, PackedProjection, drop_path_rates, linear_normal
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.feature_pyramid import FeaturePyramid
from se_jax.models.frozen import is_frozen
from se_jax.models.layers import Conv, add_bias, attention, linear
from se_jax.models.positions import resize_table, rotate, rotations

# size: of the images of pretraining, which the table of positions is for
_COMMON = {"mlp_ratio": 4.0, "gated": False, "registers": 0, "rotary": False, "key_bias": True, "antialias": True}
_COMMON |= {"offset": 0.0, "epsilon": 1e-6, "layer_scale": 0.0, "patch": 16, "size": 224}
_DINOV2 = _COMMON | {"patch": 14, "size": 518, "layer_scale": 1.0, "antialias": False, "offset": 0.1}
_REGISTERS = {"registers": 4, "antialias": True, "offset": 0.0}
_DINOV3 = _COMMON | {"registers": 4, "rotary": True, "key_bias": False, "layer_scale": 1e-5, "epsilon": 1e-5}
_GATED = {"mlp_ratio": 6.0, "gated": True}
_TINY, _SMALL, _BASE, _LARGE, _HUGE, _GIANT = (
    {"width": width, "depth": depth, "heads": heads}
    for width, depth, heads in (
        (192, 12, 3),
        (384, 12, 6),
        (768, 12, 12),
        (1024, 24, 16),
        (1280, 32, 20),
        (1536, 40, 24),
    )
)
_DINOV2_SIZES = {
    "dinov2_small": _DINOV2 | _SMALL,
    "dinov2_base": _DINOV2 | _BASE,
    "dinov2_large": _DINOV2 | _LARGE,
    "dinov2_giant": _DINOV2 | _GIANT | {"gated": True},
}
VARIANTS = {
    **_DINOV2_SIZES,
    **{f"{name}_reg": sizes | _REGISTERS for name, sizes in _DINOV2_SIZES.items()},
    "dinov3_small": _DINOV3 | _SMALL,
    "dinov3_small_plus": _DINOV3 | _SMALL | _GATED,
    "dinov3_base": _DINOV3 | _BASE,
    "dinov3_large": _DINOV3 | _LARGE,
    "dinov3_large_plus": _DINOV3 | _LARGE | _GATED,
    "dinov3_huge_plus": _DINOV3 | _HUGE | _GATED,
    "tiny": _COMMON | _TINY,
    "small": _COMMON | _SMALL,
    "base": _COMMON | _BASE,
    "large": _COMMON | _LARGE,
    "huge": _COMMON | _HUGE | {"heads": 16, "patch": 14},
}
token_normal = nn.initializers.normal(0.02)


class LayerScale(nn.Module):
    """A learnt factor a channel: [..., c] -> [..., c]."""

    start: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return x * self.param("gamma", nn.initializers.constant(self.start), (x.shape[-1],)).astype(self.dtype)


class GatedMlp(nn.Module):
    """SwiGLU: linear to twice `hidden` channels, one half's SiLU times the other, linear back: [..., c] -> [..., c]."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate, value = jnp.split(Linear(2 * self.hidden, dtype=self.dtype, name="fc1")(x), 2, axis=-1)
        return Linear(x.shape[-1], dtype=self.dtype, name="fc2")(nn.silu(gate) * value)


class Attention(nn.Module):
    """Attention of all tokens to all: [b, n, c] -> [b, n, c].

    Attributes:
      key_bias: whether keys have one; else the part of the bias that is theirs, which checkpoints hold, is not used.
    """

    heads: int
    key_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, rotation=None, allowed=None):
        """rotation: of `rotations`, of the last tokens. allowed: bool [b, q, n], what the first q tokens look at."""
        channels = x.shape[-1]
        kernel, bias = PackedProjection(linear_normal, name="qkv")(channels)
        if not self.key_bias:
            bias = bias * jnp.repeat(jnp.array([1.0, 0.0, 1.0]), channels)
        packed = add_bias(linear(x.astype(self.dtype), kernel.astype(self.dtype)), bias.astype(self.dtype))
        q, k, v = jnp.moveaxis(packed.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if allowed is None:
            y = attention(q, k, v)
        else:  # no mask of all tokens by all
            count = allowed.shape[1]
            first = jax.nn.dot_product_attention(q[:, :count], k, v, mask=allowed[:, None])
            y = jnp.concatenate([first, attention(q[:, count:], k, v)], axis=1)
        return Linear(channels, dtype=self.dtype, name="proj")(y.reshape(x.shape))


class ViTBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm, scaled and added: tokens [b, n, c] -> [b, n, c]."""

    sizes: Any
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, rotation=None, allowed=None, train: bool = False):
        sizes, channels = self.sizes, x.shape[-1]

        def add(x, y, index: int):
            if sizes.layer_scale:
                y = LayerScale(sizes.layer_scale, dtype=self.dtype, name=f"ls{index}")(y)
            return x + DropPath(self.drop_path)(y, train)

        attend = Attention(sizes.heads, sizes.key_bias, dtype=self.dtype, name="attn")
        x = add(x, attend(LayerNorm(sizes.epsilon, dtype=self.dtype, name="norm1")(x), rotation, allowed), 1)
        hidden = int(sizes.mlp_ratio * channels)
        if sizes.gated:
            mlp = GatedMlp(-(-int(hidden * 2 / 3) // 8) * 8, dtype=self.dtype, name="mlp")
        else:
            mlp = Mlp(hidden, dtype=self.dtype, name="mlp")
        return add(x, mlp(LayerNorm(sizes.epsilon, dtype=self.dtype, name="norm2")(x)), 2)


class ViT(nn.Module):
    """Plain vision transformer: image [b, h, w, 3] -> maps [b, h / patch, w / patch, width] of the blocks `outputs`.

    Each map is what the block gives behind the last LayerNorm, without class token and registers, as DINOv2's and
    DINOv3's get_intermediate_layers has it. Images have any sides that are multiples of the patch.

    A head that runs the last blocks itself, with tokens of its own, uses `embed`, `rotation`, `run` and `norm`.

    Attributes:
      variant: one of VARIANTS; the fields up to `layer_scale` replace its sizes where they are not None.
      mlp_ratio, gated: hidden channels of the MLPs in multiples of the width; of SwiGLU two thirds of that, rounded up
        to a multiple of 8.
      registers: learnt tokens beside that of the class.
      rotary: positions turn queries and keys; else they are a learnt table, added to the embedded patches.
      size: side of the images of pretraining. antialias, offset: how the table is resized for others, see
        `positions.cubic_matrix`.
      epsilon: of the LayerNorms. layer_scale: initial factor of the residual branches; 0 for none.
      grid: (h, w) of the table, in patches; None for that of the images of pretraining. Weights of another patch and
        grid are brought to the network's when they are imported, if a grid is given; where there are registers, the
        class's position is then added to its token for good, as timm has it.
      outputs: numbers of the blocks whose maps are returned; None for the last one's.
      pyramid: four maps of strides patch / 4 to 2 patch are made of one, or of four outputs: see `FeaturePyramid`.
      rescale: rotary positions are drawn larger or smaller in training, by up to this factor. 1: they are not.
      drop_path: rate of the last block; the first block's is 0.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, or sizes that do not fit; in a call, for sides of images that are
        no multiples of the patch.
    """

    variant: str = "dinov2_small"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    patch: int | None = None
    mlp_ratio: float | None = None
    gated: bool | None = None
    registers: int | None = None
    rotary: bool | None = None
    size: int | None = None
    antialias: bool | None = None
    offset: float | None = None
    key_bias: bool | None = None
    epsilon: float | None = None
    layer_scale: float | None = None
    grid: tuple[int, int] | None = None
    outputs: tuple[int, ...] | None = None
    pyramid: bool = False
    rescale: float = 2.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        for name in ("width", "depth", "heads", "patch"):
            if (value := getattr(sizes, name)) < 1:
                raise ValueError(f"ViT {name} is {value}; expected a positive number.")
        unit = 4 * sizes.heads if sizes.rotary else sizes.heads
        if sizes.width % unit:
            raise ValueError(f"ViT width is {sizes.width}; expected a multiple of {unit}, for heads={sizes.heads}.")
        if self.outputs is not None and not (self.outputs and all(0 <= i < sizes.depth for i in self.outputs)):
            raise ValueError(
                f"ViT outputs is {tuple(self.outputs)}; expected numbers of blocks, of 0 to {sizes.depth - 1}."
            )
        if self.pyramid and len(self.taken) not in (1, 4):
            raise ValueError(f"ViT outputs is {self.outputs} with a pyramid; expected one block, or four.")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"ViT drop_path is {self.drop_path}; expected a rate from 0 to below 1.")
        super().__post_init__()

    @property
    def sizes(self) -> SimpleNamespace:
        """The variant's sizes, with the fields that replace them."""
        return variant_sizes(self, VARIANTS)

    @property
    def taken(self) -> tuple[int, ...]:
        """Numbers of the blocks whose maps are returned."""
        return (self.sizes.depth - 1,) if self.outputs is None else tuple(self.outputs)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps."""
        return (self.sizes.width,) * (4 if self.pyramid else len(self.taken))

    @property
    def size_multiple(self) -> int:
        """Sides of images must be multiples of this."""
        return self.sizes.patch

    @property
    def table_grid(self) -> tuple[int, int]:
        """(h, w) of the table of positions, in patches."""
        side = self.sizes.size // self.sizes.patch
        height, width = self.grid or (side, side)
        return height, width

    @property
    def class_position(self) -> bool:
        """Whether the table has a row of the class, its first."""
        return not (self.sizes.registers and self.grid)

    def setup(self):
        sizes, kind = self.sizes, ViTBlock
        if self.remat:
            kind = nn.remat(ViTBlock, static_argnums=(4,))
        (rates,) = drop_path_rates(self.drop_path, (sizes.depth,))
        self.patch_embed = Conv(
            sizes.width,
            sizes.patch,
            strides=sizes.patch,
            padding=0,
            use_bias=True,
            kernel_init=linear_normal,
            dtype=self.dtype,
        )
        self.cls_token = self.param("cls_token", token_normal, (sizes.width,))
        if sizes.registers:
            self.register_tokens = self.param("register_tokens", token_normal, (sizes.registers, sizes.width))
        if not sizes.rotary:
            self.position = self.param(
                "position", token_normal, (self.class_position + math.prod(self.table_grid), sizes.width)
            )
        self.blocks = [kind(sizes, rate, dtype=self.dtype) for rate in rates]
        self.norm = LayerNorm(sizes.epsilon, dtype=self.dtype)
        if self.pyramid:
            self.feature_pyramid = FeaturePyramid(dtype=self.dtype)

    def embed(self, images):
        """Images -> (tokens [b, 1 + registers + h' w', c]: of the class, registers, patches row by row; (h', w'))."""
        sizes = self.sizes
        self._check(images.shape[1:3])
        x = self.patch_embed(images)
        grid = x.shape[1], x.shape[2]
        x, front = x.reshape(len(x), -1, sizes.width), self.cls_token[None]
        if not sizes.rotary:
            options = {"antialias": sizes.antialias, "offset": sizes.offset}
            table = self.position[int(self.class_position) :]
            x = x + resize_table(table, self.table_grid, grid, **options).astype(self.dtype)
            front = front + self.position[:1] if self.class_position else front
        if sizes.registers:
            front = jnp.concatenate([front, self.register_tokens])
        front = jnp.broadcast_to(front.astype(self.dtype), (len(x), *front.shape))
        return jnp.concatenate([front, x], axis=1), grid

    def rotation(self, grid: tuple[int, int], train: bool = False):
        """The rotary positions of a grid, None where there are none; in training rescaled by one factor a batch."""
        sizes = self.sizes
        factor: Any = 1.0
        if not sizes.rotary:
            return None
        if train and self.rescale > 1 and self.has_rng("dropout") and not is_frozen(self):
            most = math.log(self.rescale)
            factor = jnp.exp(jax.random.uniform(self.make_rng("dropout"), (), minval=-most, maxval=most))
        return rotations(grid, sizes.width // sizes.heads, factor=factor)

    def run(self, block: int, tokens, rotation, allowed=None, train: bool = False):
        """Tokens behind the block of that number; see `Attention` for `allowed`."""
        return self.blocks[block](tokens, rotation, allowed, train)

    def __call__(self, x, train: bool = False):
        tokens, grid = self.embed(x)
        rotation, found = self.rotation(grid, train), {}
        for block in range(self.sizes.depth):
            tokens = self.run(block, tokens, rotation, None, train)
            if block in self.taken:
                patches = self.norm(tokens[:, 1 + self.sizes.registers :])
                found[block] = patches.reshape(len(x), *grid, -1)
        maps = tuple(found[block] for block in self.taken)
        return self.feature_pyramid(maps, train) if self.pyramid else maps

    def _check(self, size: tuple[int, int]) -> None:
        patch = self.sizes.patch
        if any(side % patch or not side for side in size):
            below, above = (
                tuple(max(round_to(side / patch), 1) * patch for side in size) for round_to in (math.floor, math.ceil)
            )
            raise ValueError(
                f"ViT got images of {size[0]} x {size[1]}; expected sides that are multiples of its patch, {patch}: "
                f"the next ones are {below[0]} x {below[1]} and {above[0]} x {above[1]}."
            )
