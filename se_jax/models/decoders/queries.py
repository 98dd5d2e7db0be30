"""QueryHead: what heads have in common whose queries predict a class and a mask each: semantic scores, and segments.

Source: Cheng et al., Mask2Former, CVPR 2022 (arXiv 2112.01527), semantic inference.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from se_jax.models.decoders.base import Decoder
from se_jax.models.interpolation import taps
from se_jax.models.layers import resize

MOST_NUMBERS = 2**23  # 32 MiB of the masks or the scores of a tile of rows


class QueryHead(Decoder):
    """A head whose outputs, of p predictions, are these float32 arrays:

    'class_logits' [p, b, queries, num_classes + 1], the last class being 'no object'; 'mask_embeddings' [p, b, queries,
    c]; 'mask_features' [b, h, w, c] of all predictions, or [p, b, h, w, c]. Products of the last two are the masks'
    logits.
    """

    def scores(self, outputs, size):
        """The last prediction's semantic scores: over the queries, the sum of class probability times mask probability.

        Masks are enlarged before their sigmoid, for a tile of rows at a time.
        """
        classes = jax.nn.softmax(outputs["class_logits"][-1].astype(jnp.float32))[..., :-1]
        masks = jnp.einsum("bqc,bhwc->bhwq", outputs["mask_embeddings"][-1], _features(outputs))
        return mask_scores(classes, masks, size, self.align_corners)

    def segments(self, outputs, size, most):
        """The queries of the last prediction whose class is the surest."""
        classes = jax.nn.softmax(outputs["class_logits"][-1].astype(jnp.float32))[..., :-1]
        scores, queries = lax.top_k(jnp.max(classes, axis=-1), min(most, classes.shape[1]))
        of_query = functools.partial(jnp.take_along_axis, axis=1)
        embeddings = of_query(outputs["mask_embeddings"][-1], queries[..., None])
        masks = jnp.einsum("bqc,bhwc->bhwq", embeddings, _features(outputs))
        masks = jax.nn.sigmoid(jnp.moveaxis(resize(masks, size, self.align_corners), -1, 1))
        return {"class_id": of_query(jnp.argmax(classes, axis=-1), queries), "score": scores, "mask": masks}

    def probabilities(self, scores):
        """Scores of views are averaged as they are."""
        return scores


def _features(outputs):
    """Those of the last prediction, [b, h, w, c]."""
    features = outputs["mask_features"]
    return features[-1] if features.ndim == 5 else features


def mask_scores(classes, masks, size: tuple[int, int], align_corners: bool = False):
    """Sum over queries of classes [b, q, K] times the sigmoid of masks [b, h, w, q], enlarged: [b, *size, K]."""
    (batch, _, _, queries), (height, width) = masks.shape, size
    rows = min(height, max(1, MOST_NUMBERS // (batch * width * max(queries, classes.shape[-1]))))
    tiles = -(-height // rows)
    lower, upper, share = (
        jnp.pad(jnp.asarray(part, dtype), (0, tiles * rows - height)).reshape(tiles, rows)
        for part, dtype in zip(taps(masks.shape[1], height, align_corners), ("int32", "int32", "float32"), strict=True)
    )

    def tile(at):
        lower, upper, share = at
        share = share[:, None, None]
        x = masks[:, lower] * (1 - share) + masks[:, upper] * share
        x = jax.nn.sigmoid(resize(x, (rows, width), align_corners))
        return jnp.einsum("bhwq,bqk->bhwk", x, classes)

    scores = jnp.moveaxis(lax.map(tile, (lower, upper, share)), 0, 1)
    return scores.reshape(batch, tiles * rows, width, -1)[:, :height]
