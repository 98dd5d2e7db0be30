"""Lovász-softmax: a convex surrogate of each class's 1 - IoU.

Source: Berman et al., CVPR 2018 (arXiv 1705.08790), algorithm 1 and section 3.3; their code's lovasz_softmax with
classes='present' and per_image=True, which mmsegmentation's and segmentation_models_pytorch's LovaszLoss are made of.
"""

import dataclasses

import jax
import jax.numpy as jnp

from se_jax.losses.base import IGNORE, Loss
from se_jax.losses.pixels import labelled_images, logits_of, valid


@dataclasses.dataclass(frozen=True)
class LovaszSoftmax(Loss):
    """The mean over the images with a labelled pixel of the mean over the classes that an image has.

    By image, not by batch, which is what parts of a batch and several devices can add up.

    Attributes:
      output, term, align_corners: as PixelCrossEntropy's.
    """

    output: str = "logits"
    term: str = "loss_lovasz"
    align_corners: bool = False

    def normalizer(self, batch):
        return labelled_images(batch["label"])

    def __call__(self, outputs, constants, batch, normalizer, key):
        label = batch["label"]
        p = jax.nn.softmax(logits_of(outputs[self.output], label, self.align_corners), axis=-1)
        classes = p.shape[-1]
        flat, kept = p.reshape(len(p), -1, classes), (label != IGNORE).reshape(len(p), -1)
        ids = label.reshape(len(p), -1)

        def of_class(pair):  # one after the other: the sort of one class is as large as the label
            p, class_id = pair
            there = ids == class_id
            errors = jnp.where(kept, jnp.abs(there - p), 0)
            loss = jnp.sum(errors * jax.lax.stop_gradient(slopes(errors, there, kept)), axis=-1)
            has = jnp.any(there, axis=-1)
            return jnp.where(has, loss, 0), has

        losses, has = jax.lax.map(of_class, (jnp.moveaxis(flat, -1, 0), jnp.arange(classes)))
        by_image = jnp.sum(losses, axis=0) / jnp.maximum(jnp.sum(has, axis=0), 1)
        return {self.term: self.weight * valid(jnp.sum(by_image) / normalizer, label, classes)}


def slopes(errors, there, kept):
    """By how much each pixel's error raises the surrogate: algorithm 1, [b, n].

    With pixels in the order of falling errors, the Jaccard loss after each pixel less that before it.
    """
    order = jnp.argsort(jnp.where(kept, -errors, 1), axis=-1)  # ignored pixels last
    sorted_there = jnp.take_along_axis(there, order, axis=-1)
    area = jnp.sum(there, axis=-1, keepdims=True)
    left = area - jnp.cumsum(sorted_there, axis=-1)
    union = area + jnp.cumsum(~sorted_there, axis=-1)
    jaccard = 1 - left / jnp.maximum(union, 1)
    steps = jnp.diff(jaccard, axis=-1, prepend=0)
    return jnp.take_along_axis(steps, jnp.argsort(order, axis=-1), axis=-1)
