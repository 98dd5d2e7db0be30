"""Pixel cross entropy, as mmsegmentation 1.2.2 computes it (CrossEntropyLoss, OHEMPixelSampler).

Logits are first resized to the label's size. Pixels labelled `IGNORE` count for nothing. Everything is float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.losses.base import IGNORE, Loss, labelled_pixels
from se_jax.losses.pixels import logits_of
from se_jax.losses.ranks import of_rank

AVERAGES = ("valid", "all")


@dataclasses.dataclass(frozen=True)
class PixelCrossEntropy(Loss):
    """Softmax cross entropy of logits, {term: its sum over pixels divided by the normaliser}.

    Attributes:
      output: which of the network's outputs are the logits. term: name of the one term.
      align_corners: of the logits' resize.
      average: 'valid' divides by the pixels that are not ignored, at least 1; 'all' by all pixels, which is what the
        reference's standard configurations do (its avg_non_ignore=False).
      class_weights: K factors of the pixels' losses, by label; () for none. The sum is then divided by the sum of the
        weights of the pixels that are not ignored (the reference fails where there are ignored ones).
      min_kept: 0, or the mining of hard pixels: only min_kept * b pixels, those of the highest loss, add to the sum.
        They are ranked over all of the label, on however many devices it lies, where the reference's processes rank
        their own images; with gradient accumulation over the part. The normaliser stays.
      threshold: None, or with min_kept instead those whose softmax probability of the label is below the larger of
        this and the probability of rank min_kept * b, the lowest being of rank 0: about min_kept * b pixels or more.
      label_smoothing: e, with which the label has 1 - e + e / K and any other class e / K (Szegedy et al., CVPR 2016,
        arXiv 1512.00567), as torch's cross_entropy has it without class weights.

    Raises:
      ValueError: an option cannot be; names it.
    """

    output: str = "logits"
    term: str = "loss_decoder"
    align_corners: bool = False
    average: str = "valid"
    class_weights: tuple[float, ...] = ()
    min_kept: int = 0
    threshold: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.average not in AVERAGES:
            raise ValueError(f"loss.average is {self.average!r}; expected one of {', '.join(AVERAGES)}")
        if self.min_kept < 0:
            raise ValueError(f"loss.ohem.min_kept is {self.min_kept}; expected a number of pixels, or 0 for all")
        if self.threshold is not None and not self.min_kept:
            raise ValueError("loss.ohem.threshold needs loss.ohem.min_kept, how many pixels of an image count at least")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing is {self.label_smoothing}; expected a share of at least 0, below 1")
        if self.label_smoothing and self.threshold is not None:
            raise ValueError("loss.ohem.threshold is of the label's probability; it needs loss.label_smoothing=0")

    def normalizer(self, batch):
        label = batch["label"]
        if self.class_weights:
            return jnp.sum(_weights(label, self.class_weights)) + jnp.finfo(jnp.float32).eps
        return labelled_pixels(label) if self.average == "valid" else jnp.float32(label.size)

    def __call__(self, outputs, constants, batch, normalizer, key):
        """An id in K..254 makes the term NaN, which stops a run."""
        label = batch["label"]
        logits = logits_of(outputs[self.output], label, self.align_corners)
        classes = logits.shape[-1]
        kept = label != IGNORE
        # a comparison instead of a gather: its gradient is dense and fuses, where a gather's is a slow scatter
        of_label = jnp.arange(classes) == label[..., None]
        loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(of_label, logits, 0), axis=-1)
        if self.label_smoothing:
            spread = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * spread
        loss = jnp.where(label < classes, loss, jnp.nan)
        loss = jnp.where(kept, loss, 0)
        weighted = loss * _weights(label, self.class_weights) if self.class_weights else loss
        if self.min_kept:
            weighted = weighted * self._hard(loss, weighted, kept)  # not a selection, so that NaN stays NaN
        return {self.term: self.weight * (jnp.sum(weighted) / normalizer)}

    def _hard(self, loss, weighted, kept):
        """The share with which each pixel counts, by its loss."""
        count = self.min_kept * kept.shape[0]
        loss, weighted = jax.lax.stop_gradient((loss, weighted))
        if self.threshold is None:
            return _highest(weighted, kept, count)
        return _improbable(loss, kept, count, self.threshold)


def _weights(label, class_weights):
    """The float32 weight of every pixel; 0 where it is ignored."""
    table = np.zeros(IGNORE + 1, np.float32)
    table[: len(class_weights)] = class_weights
    return jnp.asarray(table)[label]


def _improbable(loss, kept, count: int, threshold: float):
    """Where the label's probability is below the threshold, or below the probability of rank `count`; a float mask."""
    probability = jnp.exp(-loss)
    rank = jnp.minimum(count, jnp.sum(kept) - 1)
    limit = jnp.maximum(of_rank(probability, rank, where=kept), threshold)
    return (kept & (probability < limit)).astype(jnp.float32)


def _highest(loss, kept, count: int):
    """1 for the `count` highest losses, else 0; losses equal to the last of them share what is left among them."""
    last = of_rank(loss, jnp.maximum(jnp.sum(kept) - count, 0), where=kept)
    above, equal = kept & (loss > last), kept & (loss == last)
    share = (count - jnp.sum(above)) / jnp.maximum(jnp.sum(equal), 1)
    return above + equal * jnp.minimum(share, 1.0)
