"""Masked attention: queries look at those pixels of a map that belong to the masks they have predicted so far.

Source: Cheng et al., Mask2Former, CVPR 2022 (arXiv 2112.01527), as facebookresearch/Mask2Former computes it
(mask2former/modeling/transformer_decoder). Layers are post-norm, without dropout.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from se_jax.models.attention import FeedForward, LayerNorm, Linear, PackedProjection, attend
from se_jax.models.deformable import sine_position
from se_jax.models.initializers import torch_bias, torch_uniform
from se_jax.models.layers import add_bias, linear, resize

EPSILON = 1e-5
BLOCKED = -1e9  # a large number, not infinity, whose softmax over a whole row would be undefined


def open_pixels(embeddings, features):
    """Where queries may look: bool [b, queries, pixels]; a query whose mask is empty may look everywhere.

    Args:
      embeddings: [b, queries, c], whose products with the features are the masks' logits.
      features: mask features at the size of the map, [b, pixels, c]. A bilinear resize commutes with the product, so
        these are the resized masks.
    """
    logits = jnp.einsum("bqc,bpc->bqp", embeddings, features, preferred_element_type=jnp.float32)
    inside = lax.stop_gradient(logits) >= 0
    return inside | ~jnp.any(inside, axis=-1, keepdims=True)


class MultiHeadAttention(nn.Module):
    """torch's MultiheadAttention: query [b, n, c], key and value [b, m, c] -> [b, n, c].

    `allowed`, bool [b, n, m], says what each query may look at, in all heads.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query, key, value, allowed=None):
        channels = query.shape[-1]
        kernel, bias = PackedProjection(name="in_proj")(channels)
        kernels, biases = (jnp.split(part.astype(self.dtype), 3, axis=-1) for part in (kernel, bias))
        q, k, v = (
            add_bias(linear(x.astype(self.dtype), kernel), bias).reshape(*x.shape[:2], self.heads, -1)
            for x, kernel, bias in zip((query, key, value), kernels, biases, strict=True)
        )
        mask = None if allowed is None else jnp.where(allowed, 0.0, BLOCKED)[:, None]
        y = attend(q, k, v, mask).reshape(query.shape)
        xavier = nn.initializers.xavier_uniform()
        return Linear(channels, kernel_init=xavier, dtype=self.dtype, name="out_proj")(y)


class QueryLayer(nn.Module):
    """Attention to a map, attention among the queries, a feed-forward network: queries [b, n, c] -> [b, n, c].

    The order is the reference's: first the map. Positions are added to queries and keys, not to values.
    """

    heads: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries, query_positions, memory, positions, allowed):
        """memory: [b, pixels, c]. positions: [pixels, c]. allowed: as of `open_pixels`."""

        def norm(index: int, x):
            return LayerNorm(EPSILON, dtype=self.dtype, name=f"norms_{index}")(x)

        cross = MultiHeadAttention(self.heads, dtype=self.dtype, name="cross_attn")
        x = norm(0, queries + cross(queries + query_positions, memory + positions, memory, allowed))
        itself = MultiHeadAttention(self.heads, dtype=self.dtype, name="self_attn")
        x = norm(1, x + itself(x + query_positions, x + query_positions, x))
        return norm(2, x + FeedForward(self.hidden, dtype=self.dtype, name="ffn")(x))


class QueryDecoder(nn.Module):
    """Queries learn classes and masks from maps of several levels, one level a layer, in turn.

    Attributes:
      num_classes: without the class of no object, which comes last.
      heads: of each attention. hidden: channels of the feed-forward networks.
    """

    num_classes: int
    queries: int = 100
    layers: int = 9
    heads: int = 8
    hidden: int = 2048
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mask_features, memories, align_corners: bool = False):
        """Predicts from the learnt queries and behind every layer.

        Args:
          mask_features: [b, h, w, m], whose products with embeddings are masks.
          memories: maps [b, h_i, w_i, c], coarsest first.

        Returns:
          (class logits float32 [layers + 1, b, queries, num_classes + 1], mask embeddings float32 [layers + 1, b,
          queries, m]).
        """
        batch, channels = len(mask_features), memories[0].shape[-1]
        normal = nn.initializers.normal(1.0)
        queries = self.param("query_feat", normal, (self.queries, channels))
        query_positions = self.param("query_embed", normal, (self.queries, channels)).astype(self.dtype)
        levels = self.param("level_embed", normal, (len(memories), channels))
        sizes = [(x.shape[1], x.shape[2]) for x in memories]
        flat = [
            (x + level).reshape(batch, -1, channels).astype(self.dtype)
            for x, level in zip(memories, levels, strict=True)
        ]
        positions = [jnp.asarray(sine_position(size, channels).reshape(-1, channels), self.dtype) for size in sizes]
        features = [
            resize(mask_features, size, align_corners).reshape(batch, -1, mask_features.shape[-1]) for size in sizes
        ]
        predict = _Predictions(self.num_classes, mask_features.shape[-1], name="predictions")
        queries = jnp.broadcast_to(queries.astype(self.dtype), (batch, *queries.shape))
        predicted = [predict(queries)]
        for index in range(self.layers):
            level = index % len(memories)
            allowed = open_pixels(predicted[-1][1], features[level])
            layer = QueryLayer(self.heads, self.hidden, dtype=self.dtype, name=f"layers_{index}")
            queries = layer(queries, query_positions, flat[level], positions[level], allowed)
            predicted.append(predict(queries))
        classes, embeddings = zip(*predicted, strict=True)
        return jnp.stack(classes), jnp.stack(embeddings)


class _Predictions(nn.Module):
    """Queries [b, n, c] -> (class logits [b, n, num_classes + 1], mask embeddings [b, n, mask_channels]), in float32.

    The norm is for the predictions only; the next layer gets the queries as they were.
    """

    num_classes: int
    mask_channels: int

    @nn.compact
    def __call__(self, queries):
        channels = queries.shape[-1]

        def layer(name: str, features: int):
            return Linear(features, kernel_init=torch_uniform, bias_init=torch_bias(channels), name=name)

        x = LayerNorm(EPSILON, name="post_norm")(queries)
        y = nn.relu(layer("mask_embed_0", channels)(x))
        y = nn.relu(layer("mask_embed_2", channels)(y))
        return layer("cls_embed", self.num_classes + 1)(x), layer("mask_embed_4", self.mask_channels)(y)
