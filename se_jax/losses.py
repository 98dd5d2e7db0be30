"""Pixel cross entropy and pixel accuracy, as mmsegmentation 1.2.2 computes them (CrossEntropyLoss, accuracy).

Logits are first resized to the label's size. Pixels labelled `IGNORE` count for nothing. Everything is float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.dupsample import tile
from se_jax.models.layers import resize

IGNORE = 255
NAMES = ("cross_entropy", "codes")
AVERAGES = ("valid", "all")


def check(config, num_classes: int) -> None:
    """Raises ValueError, naming the option, for values of `config.loss` that no run can have."""
    if config.name not in NAMES:
        raise ValueError(f"loss.name is {config.name!r}; expected one of {', '.join(NAMES)}")
    if config.name == "codes" and (config.class_weights or config.ohem.min_kept):
        raise ValueError("loss.class_weights and loss.ohem belong to the cross entropy; loss.name='codes' has none")
    if config.average not in AVERAGES:
        raise ValueError(f"loss.average is {config.average!r}; expected one of {', '.join(AVERAGES)}")
    if config.class_weights and len(config.class_weights) != num_classes:
        raise ValueError(
            f"loss.class_weights has {len(config.class_weights)} values; expected one for each of the {num_classes} "
            "classes (model.num_classes), or ()"
        )
    if config.ohem.min_kept < 0:
        raise ValueError(f"loss.ohem.min_kept is {config.ohem.min_kept}; expected a number of pixels, or 0 for all")
    if config.ohem.threshold is not None and not config.ohem.min_kept:
        raise ValueError("loss.ohem.threshold needs loss.ohem.min_kept, how many pixels of an image count at least")


def divisor(label, average: str = "valid", class_weights=()):
    """By what the summed loss of the whole batch `label` [b, h, w] is divided, as a float32 scalar.

    `valid`: the number of pixels that are not ignored, at least 1. `all`: the number of all pixels, which is what the
    reference's standard configurations do (its avg_non_ignore=False). With class weights, either way: the sum of the
    weights of the pixels that are not ignored (the reference fails where there are ignored ones).
    """
    if class_weights:
        return jnp.sum(_weights(label, class_weights)) + jnp.finfo(jnp.float32).eps
    if average == "valid":
        return jnp.maximum(jnp.sum(label != IGNORE), 1).astype(jnp.float32)
    return jnp.float32(label.size)


def cross_entropy(
    logits, label, divide_by, *, align_corners: bool = False, class_weights=(), min_kept: int = 0, threshold=None
):
    """Softmax cross entropy, summed over the pixels that are not ignored, and how many of those are predicted right.

    Args:
      logits: [b, h', w', K], any floating dtype; resized bilinearly to the label's size.
      label: [b, h, w] integer ids 0..K-1 or 255. An id in K..254 makes the loss NaN, which stops a run.
      divide_by: scalar, from `divisor` of the whole batch, of which this may be a part (gradient accumulation).
      class_weights: K factors of the pixels' losses, by label; () for none.
      min_kept: 0, or the mining of hard pixels (OHEMPixelSampler): only min_kept * b pixels, those of the highest loss,
        add to the sum. They are ranked over all of `label`, on however many devices it lies, where the reference's
        processes rank their own images; with gradient accumulation over the part. `divide_by` stays.
      threshold: None, or with min_kept instead those whose softmax probability of the label is below the larger of
        this and the probability of rank min_kept * b, the lowest being of rank 0: about min_kept * b pixels or more.

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
    loss = jnp.where(kept, loss, 0)
    correct = jnp.argmax(logits, axis=-1) == label
    weighted = loss * _weights(label, class_weights) if class_weights else loss
    if min_kept:
        count = min_kept * label.shape[0]
        fixed = jax.lax.stop_gradient(weighted if threshold is None else loss)
        hard = _highest(fixed, kept, count) if threshold is None else _improbable(fixed, kept, count, threshold)
        weighted = weighted * hard  # not a selection, so that NaN stays NaN
    return jnp.sum(weighted) / divide_by, jnp.sum(correct & kept).astype(jnp.float32)


def squared_error_of_codes(codes, kernel, bias, *, ratio: int, label, divide_by):
    """DUpsampling's L2 loss, for pre-training: the mean of (codes - P (v - mean))^2 over codes and windows.

    v is a window's one-hot vector. As in the fit, v - mean is 0 where a pixel is ignored; a window counts with the
    share of its pixels that are not. W's columns are orthonormal, so the gradient is, up to a factor, that of the
    squared error of the scores W codes + mean.

    Args:
      codes: float32 [b, h, w, k], of the network. kernel: [k, N], P. bias: [N], the mean of one-hot windows.
      label: [b, h', w'] integer ids or 255, h' <= h * ratio; a code stands for ratio x ratio of them. An id of no class
        makes the loss NaN.
      divide_by: as of `cross_entropy`.
    """
    sides = zip(codes.shape[1:3], label.shape[1:], strict=True)
    ends = [(0, side * ratio - have) for side, have in sides]
    windows = tile(jnp.pad(label, [(0, 0), *ends], constant_values=IGNORE)[..., None], ratio)
    classes = bias.size // ratio**2
    labelled = windows != IGNORE
    centred = (windows[..., None] == jnp.arange(classes)) - bias.reshape(ratio**2, classes)
    centred = jnp.where(labelled[..., None], centred, 0).reshape(*windows.shape[:3], -1)
    error = jnp.mean(jnp.square(codes - jnp.einsum("bhwn,kn->bhwk", centred, kernel)), axis=-1)
    error = jnp.where(jnp.all((windows < classes) | ~labelled, axis=-1), error, jnp.nan)
    return jnp.sum(error * jnp.sum(labelled, axis=-1)) / divide_by


def _weights(label, class_weights):
    """The float32 weight of every pixel; 0 where it is ignored."""
    table = np.zeros(IGNORE + 1, np.float32)
    table[: len(class_weights)] = class_weights
    return jnp.asarray(table)[label]


def _improbable(loss, kept, count: int, threshold: float):
    """Where the label's probability is below the threshold, or below the probability of rank `count`; a float mask."""
    probability = jnp.exp(-loss)
    rank = jnp.minimum(count, jnp.sum(kept) - 1)
    limit = jnp.maximum(_of_rank(probability, kept, rank), threshold)
    return (kept & (probability < limit)).astype(jnp.float32)


def _highest(loss, kept, count: int):
    """1 for the `count` highest losses, else 0; losses equal to the last of them share what is left among them."""
    last = _of_rank(loss, kept, jnp.maximum(jnp.sum(kept) - count, 0))
    above, equal = kept & (loss > last), kept & (loss == last)
    share = (count - jnp.sum(above)) / jnp.maximum(jnp.sum(equal), 1)
    return above + equal * jnp.minimum(share, 1.0)


def _of_rank(values, kept, rank):
    """The value of 0-based rank `rank`, from the lowest, among those kept; 0 where none is. No value is negative.

    Bit by bit, from counts alone: the pixels stay on their devices, where sorting would bring them all to each.
    """
    # floats that are not negative are ordered as their bits are
    bits = jnp.where(kept, jax.lax.bitcast_convert_type(values, jnp.int32), jnp.iinfo(jnp.int32).max)

    def refine(i, found):
        candidate = found | (1 << (30 - i))
        return jnp.where(jnp.sum(bits < candidate) <= rank, candidate, found)

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, refine, jnp.int32(0)), jnp.float32)


def accuracy(correct, label):
    """Share of the not-ignored pixels that are right; 1 where all are ignored (the reference's acc_seg / 100)."""
    eps = jnp.finfo(jnp.float32).eps
    return (correct + eps) / (jnp.sum(label != IGNORE) + eps)
