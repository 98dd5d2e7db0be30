"""Metrics: what is counted of scores and labels on the devices, and the numbers that are computed of it on the host.

Counts are int32 on the device for a batch and int64 on the host for a data set: float32 counts are wrong from 2**24 on.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.losses.base import IGNORE


class Metric(abc.ABC):
    """One metric, or several that share their counts; hashable, as a frozen dataclass is, since programs hold it.

    A batch is counted tile by tile: `init`, then `update` with every tile, or, of a metric that is `whole`,
    `update_whole` with the whole images. The host adds the batches up by `add` and makes the numbers by `compute`. By
    default states are counts that add up.
    """

    whole: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, images: int):
        """The state before the first tile of a batch of so many images: a tree of arrays."""

    def update(self, state, scores, label):
        """The state after one more tile; traced.

        Args:
          scores: float32 [b, h, w, K], what the network makes of the tile; the highest one is the pixel's class.
          label: [b, h, w] integer ids, or 255 (ignored, or outside the image).
        """
        return state

    def update_whole(self, state, ids, label, size):
        """The state after the images of a batch, for what pixels far from each other decide; traced.

        Args:
          ids: uint8 [b, h, w], the predicted classes. label: uint8 [b, h, w], as of `update`.
          size: int32 [2], (height, width) of the images, which lie in the upper left corner of both.
        """
        return state

    def empty(self):
        """The total before the first batch: zeros, int64 for counts."""
        state = jax.eval_shape(lambda: self.init(1))
        return jax.tree.map(lambda x: np.zeros(x.shape, np.int64 if x.dtype.kind in "iu" else np.float64), state)

    def add(self, total, state, index: np.ndarray):
        """The total with one more batch, whose state is on the host. The total given may be written over.

        index: int [b], which image of the data set each one is; -1 for a filler, which has no label.
        """
        return jax.tree.map(np.add, total, state)

    @abc.abstractmethod
    def compute(self, total) -> dict[str, Any]:
        """{name: number}, also nested dicts and lists for JSON; None for a number that cannot be."""

    def arrays(self, total) -> dict[str, dict[str, np.ndarray]]:
        """{name of an .npz file: its arrays}, which a run keeps for its report."""
        return {}

    def tables(self, total) -> dict[str, list[list]]:
        """{name of a .csv file: its rows, the heads first}, for people."""
        return {}

    def examples(self, result: dict) -> list[int]:
        """Images worth a picture in the report, by index; `result` holds what all metrics computed."""
        return []


def numbers(result: dict) -> dict[str, float | None]:
    """Those of a result that are plain numbers, which can be followed over a run and choose the best checkpoint."""
    return {key: value for key, value in result.items() if value is None or isinstance(value, float)}


MEANS = ("miou", "macc", "aacc", "mprecision", "mdice")


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix(Metric):
    """IoU, accuracy (recall), precision, Dice of every class; their means miou, macc, mprecision, mdice; and aacc.

    Attributes:
      names: of the classes. palette: their colours, kept beside the matrix.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()

    def init(self, images):
        return jnp.zeros((len(self.names), len(self.names)), jnp.int32)

    def update(self, state, scores, label):
        return state + confusion_matrix(scores, label, len(self.names))

    def compute(self, total):
        found = scores(total)
        per_class = {
            key: {name: _number(value) for name, value in zip(self.names, found[key], strict=True)}
            for key in ("iou", "acc", "precision", "dice")
        }
        return {key: _number(found[key]) for key in MEANS} | per_class

    def arrays(self, total):
        """confusion int64 [K, K], names [K], palette [K, 3]."""
        palette = np.asarray(self.palette, np.uint8).reshape(-1, 3)
        return {"confusion": {"confusion": total, "names": np.asarray(self.names), "palette": palette}}


@dataclasses.dataclass(frozen=True)
class Accuracy(Metric):
    """Share of the labelled pixels whose class is right; 1 where all are ignored (the reference's acc_seg / 100)."""

    def init(self, images):
        return {"correct": jnp.int32(0), "labelled": jnp.int32(0)}

    def update(self, state, scores, label):
        kept = label != IGNORE
        correct = (jnp.argmax(scores, axis=-1) == label) & kept
        return {"correct": state["correct"] + jnp.sum(correct), "labelled": state["labelled"] + jnp.sum(kept)}

    def compute(self, total):
        eps = np.finfo(np.float32).eps
        return {"accuracy": float((np.float32(total["correct"]) + eps) / (np.float32(total["labelled"]) + eps))}


@dataclasses.dataclass(frozen=True)
class ImageAreas(Metric):
    """What metrics of single images share: of every image of a batch `areas`, int32 [b, 2, K].

    Attributes:
      names: of the classes. image_name: index of an image -> its file.
    """

    names: tuple[str, ...]
    image_name: Callable[[int], str]

    def init(self, images):
        return jnp.zeros((images, 2, len(self.names)), jnp.int32)

    def update(self, state, scores, label):
        return state + areas(jnp.argmax(scores, axis=-1), label, len(self.names))


def confusion_matrix(prediction, label, num_classes: int):
    """Counts pixels by (label, prediction).

    Args:
      prediction: [...] integer ids 0..K-1, or logits [..., K], whose arg-max is taken.
      label: [...] integer ids; pixels of 255, or of any other id that is no class, are dropped.

    Returns:
      int32 [K, K]; row = label, column = prediction.
    """
    if prediction.ndim == label.ndim + 1:
        prediction = jnp.argmax(prediction, axis=-1)
    kept = (label != IGNORE) & (label < num_classes)
    cell = label.astype(jnp.int32) * num_classes + prediction.astype(jnp.int32)
    dropped = num_classes * num_classes
    counts = jnp.bincount(jnp.where(kept, cell, dropped).ravel(), length=dropped + 1)
    return counts[:dropped].reshape(num_classes, num_classes).astype(jnp.int32)


def areas(prediction, label, num_classes: int):
    """Each image's intersection and union of prediction and label, by class, among the pixels that are not dropped.

    Args:
      prediction: [b, ...] integer ids 0..K-1. label: [b, ...] integer ids, as in `confusion_matrix`.

    Returns:
      int32 [b, 2, K]: intersection, union.
    """
    kept = (label != IGNORE) & (label < num_classes)

    def count(ids, where):
        cells = jnp.where(where, ids.astype(jnp.int32), num_classes).reshape(len(ids), -1)
        return jax.vmap(lambda row: jnp.bincount(row, length=num_classes + 1))(cells)[:, :num_classes]

    right = count(label, kept & (label == prediction))
    return jnp.stack([right, count(label, kept) + count(prediction, kept) - right], 1).astype(jnp.int32)


def scores(confusion) -> dict:
    """Scores of a confusion matrix [K, K] (row = label), as fractions.

    Returns:
      iou [K]: intersection over union; NaN for a class that neither labels nor predictions hold.
      acc [K]: share of the class's labelled pixels that are right, its recall; NaN for a class never labelled.
      precision [K]: share of its predicted pixels that are right; NaN for a class never predicted.
      dice [K]: twice the intersection over the sum of both, F1, 2 iou / (1 + iou); NaN as iou.
      miou, macc, mprecision, mdice: means over the classes without NaN ones (so they may cover different classes);
      aacc: share of all labelled pixels that are right. NaN where there is nothing to average.
    """
    confusion = np.asarray(confusion, np.int64)
    right, labelled, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = right / (labelled + predicted - right)
        acc = right / labelled
        precision = right / predicted
        aacc = float(right.sum() / labelled.sum())
    found = {"iou": iou, "acc": acc, "precision": precision, "dice": 2 * iou / (1 + iou)}
    means = {"miou": _mean(iou), "macc": _mean(acc), "aacc": aacc}
    return found | means | {"mprecision": _mean(precision), "mdice": _mean(found["dice"])}


def _mean(values) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _number(value) -> float | None:
    return float(value) if np.isfinite(value) else None
