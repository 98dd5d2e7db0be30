"""What losses of class scores begin with: logits at the label's size, their probabilities, one-hot labels."""

import jax
import jax.numpy as jnp

from se_jax.losses.base import IGNORE
from se_jax.models.layers import resize
from se_jax.models.platforms import computed_once

ACTIVATIONS = ("softmax", "sigmoid")


def logits_of(output, label, align_corners: bool):
    """An output [b, h', w', K] as float32 logits of the label's size [b, h, w, K]."""
    return computed_once(resize(output.astype(jnp.float32), label.shape[1:3], align_corners))


def probabilities(logits, activation: str):
    """'softmax' over the classes, or 'sigmoid' of each class by itself."""
    return jax.nn.softmax(logits, axis=-1) if activation == "softmax" else jax.nn.sigmoid(logits)


def one_hot(label, num_classes: int):
    """bool [b, h, w, K]; nothing where a pixel is ignored."""
    return label[..., None] == jnp.arange(num_classes)


def valid(value, label, num_classes: int):
    """The value; or NaN, which stops a run, where a label is an id of no class."""
    return jnp.where(jnp.any((label >= num_classes) & (label != IGNORE)), jnp.nan, value)


def labelled_images(label):
    """How many images have a pixel that is not ignored, at least 1, as a float32 scalar."""
    return jnp.maximum(jnp.sum(jnp.any(label != IGNORE, axis=(1, 2))), 1).astype(jnp.float32)


def check_activation(name: str, activation: str) -> None:
    """Raises ValueError for an activation that there is not."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{name} activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
