"""Focal loss, and the binary cross entropy of every class that it is without its focus.

Source: Lin et al., ICCV 2017 (arXiv 1708.02002). With 'sigmoid' as mmsegmentation 1.2.2's FocalLoss (average='all',
alpha=0.5) and segmentation_models_pytorch 0.6's (average='valid'); with 'softmax' as the latter's softmax_focal_loss.
"""

import dataclasses

import jax
import jax.numpy as jnp

from se_jax.losses.base import IGNORE, Loss, labelled_pixels
from se_jax.losses.pixels import check_activation, logits_of, one_hot, valid


@dataclasses.dataclass(frozen=True)
class Focal(Loss):
    """(1 - p)^gamma times the cross entropy, with p the probability of what is true, summed and divided.

    With 'sigmoid' every class of a pixel is a question of its own, yes or no: the sum is over pixels and classes, and
    is divided by the normaliser times the number of classes. With 'softmax' it is over pixels.

    Attributes:
      output, term, align_corners: as PixelCrossEntropy's. average: likewise, 'valid' or 'all' pixels are divided by.
      gamma: the focus; 0 makes the cross entropy.
      alpha: weight of yes, 1 - alpha being that of no; None for 1 of both; 'sigmoid' only.
      activation: 'sigmoid' or 'softmax'.

    Raises:
      ValueError: an option cannot be; names it.
    """

    output: str = "logits"
    term: str = "loss_focal"
    align_corners: bool = False
    average: str = "valid"
    gamma: float = 2.0
    alpha: float | None = None
    activation: str = "sigmoid"

    def __post_init__(self):
        check_activation(type(self).__name__, self.activation)
        if self.alpha is not None and self.activation != "sigmoid":
            raise ValueError(f"Focal alpha is {self.alpha}; expected None with activation='softmax', which has no 'no'")

    def normalizer(self, batch):
        label = batch["label"]
        return labelled_pixels(label) if self.average == "valid" else jnp.float32(label.size)

    def __call__(self, outputs, constants, batch, normalizer, key):
        label = batch["label"]
        logits = logits_of(outputs[self.output], label, self.align_corners)
        classes = logits.shape[-1]
        y, kept = one_hot(label, classes), (label != IGNORE)[..., None]
        if self.activation == "sigmoid":
            entropy = -jax.nn.log_sigmoid(jnp.where(y, logits, -logits))
            normalizer = normalizer * classes
        else:
            entropy = -jnp.sum(jnp.where(y, jax.nn.log_softmax(logits), 0), axis=-1, keepdims=True)
        # 1 - p, without the cancellation where p is near 1; its power has no gradient at 0 for a gamma below 1
        loss = entropy * jnp.maximum(-jnp.expm1(-entropy), 1e-12) ** self.gamma if self.gamma else entropy
        if self.alpha is not None:
            loss = loss * jnp.where(y, self.alpha, 1 - self.alpha)
        total = jnp.sum(jnp.where(kept, loss, 0)) / normalizer
        return {self.term: self.weight * valid(total, label, classes)}


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Focal):
    """The cross entropy of every class by itself, yes or no: the mean over pixels and classes.

    As torch's binary_cross_entropy_with_logits on one-hot labels, with the ignored pixels left out.
    """

    term: str = "loss_binary_cross_entropy"
    gamma: float = 0.0
