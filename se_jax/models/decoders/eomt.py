"""EoMTHead: queries that go through the last blocks of a plain vision transformer, beside its patches.

Source: Kerssies et al., Your ViT is secretly an image segmentation model, CVPR 2025 (arXiv 2503.19108), as tue-mps/eomt
builds it for semantic segmentation.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_jax.models.attention import LayerNorm, Linear, gelu
from se_jax.models.decoders.queries import QueryHead
from se_jax.models.feature_pyramid import Upsample
from se_jax.models.initializers import torch_bias, torch_uniform
from se_jax.models.layers import Conv, resize

EPSILON = 1e-6
POWER = 0.9  # of the falling share of masked queries


class Upscale(nn.Module):
    """Transposed convolution, GELU, depthwise convolution, LayerNorm: [b, h, w, c] -> [b, 2 h, 2 w, c]."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        x = gelu(Upsample(channels, dtype=self.dtype, name="conv1")(x))
        x = Conv(channels, 3, groups=channels, kernel_init=torch_uniform, dtype=self.dtype, name="conv2")(x)
        return LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)


class MaskModule(nn.Module):
    """Normed queries [b, q, c] and patches [b, h, w, c] -> (class logits [b, q, K + 1], mask logits [b, h', w', q]).

    Both float32; masks are 2 ** upscales times as large as the patches' grid.
    """

    num_classes: int
    upscales: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries, patches):
        channels = queries.shape[-1]

        def layer(name: str, features: int, dtype=self.dtype):
            options = {"kernel_init": torch_uniform, "bias_init": torch_bias(channels), "dtype": dtype, "name": name}
            return Linear(features, **options)

        classes = layer("class_head", self.num_classes + 1, jnp.float32)(queries)
        x = gelu(layer("mask_head_0", channels)(queries))
        x = gelu(layer("mask_head_2", channels)(x))
        embeddings = layer("mask_head_4", channels)(x)
        for index in range(self.upscales):
            patches = Upscale(dtype=self.dtype, name=f"upscale_{index}")(patches)
        masks = jnp.einsum("bqc,bhwc->bhwq", embeddings, patches, preferred_element_type=jnp.float32)
        return classes, masks


class EoMTHead(QueryHead):
    """Images and a ViT, whose last blocks it runs -> a class and a mask of every query.

    Outputs as of QueryHead: 'mask_features' [p, b, h, w, queries] are here the masks' logits, 'mask_embeddings' [p, b,
    queries, queries] the unit vectors that choose one of them. In training p = blocks + 1, before each of the last
    blocks and behind them; else there is the last prediction only.

    In training queries see those patches that belong to the mask they have predicted so far, and all else. A query that
    is opened sees all patches: that is drawn for every image, block and query, more and more often as training goes on,
    until nobody is masked, as it is outside of training.

    No fusion site: all is of one stride.

    Attributes:
      queries: how many. blocks: of the encoder's last ones, how many have queries.
      upscales: how often the masks' grid is doubled; None for a quarter of the image's size or the next below.
      anneal: ((start, end) of each of the blocks), in shares of the run: before the start all queries are masked, from
        the end on all are opened. (): all are masked throughout.
      channels, dropout: not used; maps are as wide as the encoder's.

    Raises:
      ValueError: for a dropout, or not one span a block; in a call, for an encoder that has no such blocks.
    """

    queries: int = 100
    blocks: int = 3
    upscales: int | None = None
    anneal: tuple[tuple[float, float], ...] = ()
    dropout: float = 0.0
    joint: ClassVar[bool] = True
    classifier: ClassVar[tuple[str, ...]] = ("predictor/class_head",)

    def __post_init__(self):
        if self.dropout:
            raise ValueError(f"EoMTHead dropout is {self.dropout}; expected 0, as it has none.")
        if self.anneal and (len(self.anneal) != self.blocks or any(end <= start for start, end in self.anneal)):
            raise ValueError(
                f"EoMTHead anneal is {self.anneal}; expected (start, end) of each of the {self.blocks} blocks, in "
                "shares of the run, start < end; or () to mask all queries throughout."
            )
        super().__post_init__()

    def __call__(self, images, train: bool = False, *, encoder, progress=None):
        """Images [b, h, w, 3] and the encoder -> outputs.

        progress: the share of the run that is over, 0 to 1, a scalar; None is its start.
        """
        depth = encoder.sizes.depth
        if self.blocks > depth:
            raise ValueError(f"EoMTHead blocks is {self.blocks}; the encoder has {depth}.")
        opened = self.opened(len(images), 0.0 if progress is None else progress) if train else None
        return self.predictions(images, encoder, opened, train)

    def opened(self, batch: int, progress):
        """Which queries are opened, bool [blocks, batch, queries]; nobody is without a 'dropout' key."""
        shape = (self.blocks, batch, self.queries)
        draws = jnp.zeros(shape)
        if self.anneal and self.has_rng("dropout"):
            draws = jax.random.uniform(self.make_rng("dropout"), shape)
        return draws > self.masked_shares(progress)[:, None, None]

    def masked_shares(self, progress):
        """With which probability queries are masked in each of the blocks, float32 [blocks]."""
        if not self.anneal:
            return jnp.ones(self.blocks)
        start, end = jnp.asarray(self.anneal, jnp.float32).T
        left = 1 - (progress - start) / (end - start)
        return jnp.where(progress >= end, 0.0, jnp.clip(left, 0.0, 1.0) ** POWER)

    @nn.compact
    def predictions(self, images, encoder, opened=None, train: bool = False):
        """The outputs of all predictions where `opened`, bool [blocks, b, queries], says who is; else of the last."""
        tokens, grid = encoder.embed(images)
        rotation, sizes = encoder.rotation(grid, train), encoder.sizes
        first = sizes.depth - self.blocks
        for block in range(first):
            tokens = encoder.run(block, tokens, rotation, None, train)
        queries = self.param("query", nn.initializers.normal(1.0), (self.queries, sizes.width))
        queries = jnp.broadcast_to(queries.astype(tokens.dtype), (len(tokens), *queries.shape))
        tokens = jnp.concatenate([queries, tokens], axis=1)

        upscales = max(1, int(math.log2(sizes.patch)) - 2) if self.upscales is None else self.upscales
        # of its activations, which are larger than the encoder's, none is kept for the gradient
        module: Any = nn.remat(MaskModule)(self.num_classes, upscales, dtype=self.dtype, name="predictor")

        def predict(tokens):
            x = encoder.norm(tokens)
            patches = x[:, -math.prod(grid) :].reshape(len(x), *grid, -1)
            return module(x[:, : self.queries], patches)

        found = []
        for index in range(self.blocks):
            allowed = None
            if opened is not None:
                found.append(predict(tokens))
                allowed = visible(found[-1][1], opened[index], grid, tokens.shape[1])
            tokens = encoder.run(first + index, tokens, rotation, allowed, train)
        classes, masks = map(jnp.stack, zip(*found, predict(tokens), strict=True))
        each = jnp.broadcast_to(jnp.eye(self.queries), (*classes.shape[:2], self.queries, self.queries))
        return {"class_logits": classes, "mask_embeddings": each, "mask_features": masks}


def visible(masks, opened, grid: tuple[int, int], count: int):
    """What queries may look at among `count` tokens, of which patches are the last: bool [b, queries, count].

    Args:
      masks: logits [b, h, w, queries]; a patch belongs to one where the logit is above 0 at the size of the grid.
      opened: bool [b, queries], who sees all patches.
    """
    patches = resize(jax.lax.stop_gradient(masks), grid).reshape(len(masks), -1, masks.shape[-1])
    inside = (patches > 0).swapaxes(1, 2) | opened[..., None]
    return jnp.pad(inside, ((0, 0), (0, 0), (count - inside.shape[2], 0)), constant_values=True)
