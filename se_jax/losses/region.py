"""Losses of regions: Tversky's, of which Dice is the one that weighs both kinds of errors alike.

Sources: Milletari et al., 3DV 2016 (arXiv 1606.04797, Dice); Salehi et al., MLMI 2017 (arXiv 1706.05721, Tversky).
Formulas as in segmentation_models_pytorch 0.6 (DiceLoss, TverskyLoss) with the classes that an image has;
mmsegmentation 1.2.2's TverskyLoss is the same with smooth=1 where an image has all classes. Its DiceLoss squares
probabilities: not this one.
"""

import dataclasses

import jax.numpy as jnp

from se_jax.losses.base import IGNORE, Loss
from se_jax.losses.pixels import check_activation, labelled_images, logits_of, one_hot, probabilities, valid

EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class Tversky(Loss):
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), with TP = sum of p y, FP = p (1 - y), FN = (1 - p) y.

    p is the probability of a class, y 1 where it is the label; sums are over the pixels of an image that are not
    ignored. The term is the mean over the classes that an image has, and of that over the images with a labelled pixel.
    By image, not by batch as in segmentation_models_pytorch: so parts of a batch add up, on however many devices.

    Attributes:
      output: which of the network's outputs are the logits. term: name of the one term.
      align_corners: of the logits' resize.
      alpha, beta: weights of the false positives and negatives; both 0.5 make Dice, both 1 Jaccard's index.
      smooth: added to both sides of the fraction.
      activation: 'softmax', or 'sigmoid', by which each class is a question of its own.
    """

    output: str = "logits"
    term: str = "loss_tversky"
    align_corners: bool = False
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 0.0
    activation: str = "softmax"

    def __post_init__(self):
        check_activation(type(self).__name__, self.activation)

    def normalizer(self, batch):
        return labelled_images(batch["label"])

    def __call__(self, outputs, constants, batch, normalizer, key):
        label = batch["label"]
        logits = logits_of(outputs[self.output], label, self.align_corners)
        classes = logits.shape[-1]
        p = jnp.where((label != IGNORE)[..., None], probabilities(logits, self.activation), 0)
        y = one_hot(label, classes)
        right, found, there = (jnp.sum(x, axis=(1, 2)) for x in (jnp.where(y, p, 0), p, y))
        whole = right + self.alpha * (found - right) + self.beta * (there - right) + self.smooth
        loss = 1 - (right + self.smooth) / jnp.maximum(whole, EPSILON)
        has = there > 0
        by_image = jnp.sum(jnp.where(has, loss, 0), axis=-1) / jnp.maximum(jnp.sum(has, axis=-1), 1)
        return {self.term: self.weight * valid(jnp.sum(by_image) / normalizer, label, classes)}


@dataclasses.dataclass(frozen=True)
class Dice(Tversky):
    """1 - 2 sum of p y / (sum of p + sum of y): Tversky's with both weights a half."""

    term: str = "loss_dice"
    alpha: float = 0.5
    beta: float = 0.5
