"""Parts from outside the library, as a user would write them: a data set, an encoder, a set-prediction head (queries,
matched by a permutation) with its loss, and a metric.
"""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Data, LabelSpec, Source
from se_jax import Decoder, Loss, Metric

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))


class TwoHalves(Source):
    """Pictures of two halves, each of the colour of its class, in memory."""

    def __init__(self, split: str, count: int, size: tuple[int, int]):
        super().__init__(f"two halves ({split})")
        rng = np.random.default_rng(len(split))
        classes = rng.integers(0, len(COLOURS), (count, 2))
        self.labels = np.repeat(np.repeat(classes[:, None], size[0], 1), size[1] // 2, 2).astype(np.uint8)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = self.labels[index]
        head = b" %d %d 255\n" % label.shape[::-1]
        image = np.asarray(COLOURS, np.uint8)[label]
        return b"P6" + head + image.tobytes(), b"P5" + head + label.tobytes(), self.image_name(index)

    def size(self, index):
        return self.labels[index].shape


def two_halves(config) -> Data:
    """What data.name='tests.training.toy_queries:two_halves' makes."""
    train, val = (TwoHalves(split, getattr(config, f"num_{split}"), config.image_size) for split in ("train", "val"))
    return Data(train, val, LabelSpec.create(("red", "green", "blue", "yellow"), COLOURS))


class Patches(nn.Module):
    """Images -> one map [b, h / 4, w / 4, width]: a convolution of 4 x 4 pixels."""

    width: int = 16
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        return (self.width,)

    @nn.compact
    def __call__(self, images, train: bool = False):
        return (nn.relu(nn.Conv(self.width, (4, 4), (4, 4), dtype=self.dtype, name="conv")(images)),)


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

    def segments(self, outputs, size, most):
        masks = jax.image.resize(outputs["masks"], (len(outputs["masks"]), *size, self.queries), "linear")
        classes = jax.nn.softmax(outputs["classes"])[:, :most]
        masks = jnp.moveaxis(jax.nn.sigmoid(masks), -1, 1)[:, :most]
        return {"class_id": jnp.argmax(classes, axis=-1), "score": jnp.max(classes, axis=-1), "mask": masks}

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
