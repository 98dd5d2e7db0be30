"""Pixel cross entropy and pixel accuracy, as mmsegmentation 1.2.2 computes them (CrossEntropyLoss, accuracy).

Logits are first resized to the label's size. Pixels labelled `IGNORE` count for nothing. Everything is float32.
"""

import jax
import jax.numpy as jnp

from se_jax.models.layers import resize

IGNORE = 255
AVERAGES = ("valid", "all")


def divisor(label, average: str = "valid"):
    """By what the summed loss of the whole batch `label` [b, h, w] is divided, as a float32 scalar.

    `valid`: the number of pixels that are not ignored, at least 1. `all`: the number of all pixels, which is what the
    reference's standard configurations do (its avg_non_ignore=False).
    """
    if average == "valid":
        return jnp.maximum(jnp.sum(label != IGNORE), 1).astype(jnp.float32)
    return jnp.float32(label.size)


def cross_entropy(logits, label, divide_by, *, align_corners: bool = False):
    """Softmax cross entropy, summed over the pixels that are not ignored, and how many of those are predicted right.

    Args:
      logits: [b, h', w', K], any floating dtype; resized bilinearly to the label's size.
      label: [b, h, w] integer ids 0..K-1 or 255. An id in K..254 makes the loss NaN, which stops a run.
      divide_by: scalar, from `divisor` of the whole batch, of which this may be a part (gradient accumulation).

    Returns:
      (loss, correct): float32 scalars; the loss is divided by `divide_by`, `correct` is a count.
    """
    logits = resize(logits.astype(jnp.float32), label.shape[1:3], align_corners)
    classes = logits.shape[-1]
    kept = label != IGNORE
    # a comparison instead of a gather: its gradient is dense and fuses, where a gather's is a slow scatter
    of_label = jnp.arange(classes) == label[..., None]
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(of_label, logits, 0), axis=-1)
    loss = jnp.where(label < classes, loss, jnp.nan)
    correct = jnp.argmax(logits, axis=-1) == label
    return jnp.sum(jnp.where(kept, loss, 0)) / divide_by, jnp.sum(correct & kept).astype(jnp.float32)


def accuracy(correct, label):
    """Share of the not-ignored pixels that are right; 1 where all are ignored (the reference's acc_seg / 100)."""
    eps = jnp.finfo(jnp.float32).eps
    return (correct + eps) / (jnp.sum(label != IGNORE) + eps)
