"""What a loss is: frozen options, a normaliser of the whole batch, and weighted terms that training adds up."""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp

IGNORE = 255  # the label of pixels that count for nothing


@dataclasses.dataclass(frozen=True)
class Loss(abc.ABC):
    """A part of what training minimises; the trainer adds up the terms of all losses and knows none of them.

    Attributes:
      weight: factor of every term.
    """

    weight: float = dataclasses.field(default=1.0, kw_only=True)

    def normalizer(self, batch: dict[str, Any]):
        """What the terms are divided by, from the whole batch, before it is split for gradient accumulation.

        By default the number of pixels that are not ignored, at least 1, a float32 scalar.

        Args:
          batch: image uint8 [b, h, w, 3], size int32 [b, 2], label uint8 [b, h, w].
        """
        return labelled_pixels(batch["label"])

    def reports(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{name: number} of the whole batch to be told beside the terms, e.g. what the loss leaves out of it."""
        return {}

    @abc.abstractmethod
    def __call__(self, outputs, constants, batch, normalizer, key) -> dict[str, Any]:
        """{name: weighted term}, float32 scalars. Over the parts of a batch terms are summed.

        Args:
          outputs: of the network. constants: its collections that training does not change.
          batch: as of `normalizer`, or a part of it, and place int32 [b]: of each image in the whole batch.
          normalizer: what that method gave for the whole batch.
          key: a random key, a function of seed and step. What is drawn for an image should be drawn from
            `jax.random.fold_in(key, place)`: then it does not depend on how a batch is split.
        """


def labelled_pixels(label):
    """How many pixels of [b, h, w] are not ignored, at least 1, as a float32 scalar."""
    return jnp.maximum(jnp.sum(label != IGNORE), 1).astype(jnp.float32)
