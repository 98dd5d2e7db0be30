"""Confusion matrix and the scores made of it: IoU, accuracy and their means, with mmsegmentation's (IoUMetric's) rules.

Counts are int32 on the device for a batch and int64 on the host for a data set: float32 counts are wrong from 2**24 on.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.losses import IGNORE


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
      acc [K]: share of the class's labelled pixels that are right; NaN for a class never labelled.
      miou, macc: means over the classes without NaN ones (so the two may cover different classes); aacc: share of all
      labelled pixels that are right. NaN where there is nothing to average.
    """
    confusion = np.asarray(confusion, np.int64)
    right, labelled, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = right / (labelled + predicted - right)
        acc = right / labelled
        aacc = float(right.sum() / labelled.sum())
    return {"iou": iou, "acc": acc, "miou": _mean(iou), "macc": _mean(acc), "aacc": aacc}


def _mean(values) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan
