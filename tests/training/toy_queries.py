"""A toy set-prediction network, as a user would write it outside the library: queries, matched by a permutation."""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax import Decoder, Loss, Metric


class QueryHead(Decoder):
    """Features -> {'masks': [b, h, w, queries], 'classes': [b, queries, num_classes]}: no map of logits."""

    queries: int = 3

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = features[0].astype(jnp.float32)
        masks = nn.Dense(self.queries, name="masks")(nn.relu(nn.Dense(self.channels, name="pixels")(x)))
        attention = jax.nn.softmax(masks.reshape(len(x), -1, self.queries), axis=1)
        seen = jnp.einsum("bpq,bpc->bqc", attention, x.reshape(len(x), -1, x.shape[-1]))
        return {"masks": masks, "classes": nn.Dense(self.num_classes, name="classes")(seen)}

    def scores(self, outputs, size):
        masks = jax.image.resize(outputs["masks"], (len(outputs["masks"]), *size, self.queries), "linear")
        return jnp.einsum("bhwq,bqk->bhwk", jax.nn.sigmoid(masks), jax.nn.softmax(outputs["classes"]))

    def probabilities(self, scores):
        return scores


@dataclasses.dataclass(frozen=True)
class SetLoss(Loss):
    """The best permutation of queries and of the `targets` most frequent classes of each image, and its loss."""

    targets: int = 3

    def normalizer(self, batch):
        return jnp.float32(len(batch["label"]))

    def __call__(self, outputs, constants, batch, normalizer, key):
        size, classes = outputs["masks"].shape[1:3], outputs["classes"].shape[-1]
        label = batch["label"]
        rows, columns = (np.arange(n) * side // n for n, side in zip(size, label.shape[1:], strict=True))
        label = label[:, rows][:, :, columns]
        counts = jnp.sum(label[..., None] == jnp.arange(classes), axis=(1, 2))
        wanted = jnp.argsort(-counts, axis=-1)[:, : self.targets]
        there = jnp.take_along_axis(counts, wanted, axis=-1) > 0
        masks = (label[..., None] == wanted[:, None, None]).astype(jnp.float32)
        of_class = -jnp.take_along_axis(jax.nn.log_softmax(outputs["classes"]), wanted[:, None], axis=-1)
        x, y = outputs["masks"][..., :, None], masks[..., None, :]
        of_mask = jnp.mean(jax.nn.softplus(x) - x * y, axis=(1, 2))
        cost = jnp.where(there[:, None], of_class + 5 * of_mask, 0)  # [b, queries, targets]
        orders = np.array(list(itertools.permutations(range(self.targets))))
        best = jnp.min(jnp.sum(cost[:, orders, np.arange(self.targets)], axis=-1), axis=-1)
        return {"loss_sets": self.weight * jnp.sum(best) / normalizer}


@dataclasses.dataclass(frozen=True)
class ClassesFound(Metric):
    """Share of the classes in the labels that are predicted right in at least one pixel."""

    num_classes: int

    def init(self, images):
        return jnp.zeros((2, self.num_classes), jnp.int32)

    def update(self, state, scores, label):
        of_class = label[..., None] == jnp.arange(self.num_classes)
        right = of_class & (jnp.argmax(scores, axis=-1) == label)[..., None]
        return state + jnp.stack([jnp.sum(of_class, axis=(0, 1, 2)), jnp.sum(right, axis=(0, 1, 2))])

    def compute(self, total) -> dict[str, Any]:
        labelled, right = np.asarray(total)
        return {"found": float((right > 0).sum() / max((labelled > 0).sum(), 1))}
