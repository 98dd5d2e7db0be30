"""The order in which training shows its images: each epoch a permutation, where rare classes may come more often."""

from typing import Any

import numpy as np
import tensorflow as tf

_random: Any = getattr(tf.random, "experimental")  # noqa: B009, which type checkers do not know


class Order:
    """The order of `count` images in every epoch: a function of seed, stream and epoch, any place of which is known.

    An epoch has `length` places. With `repeats`, float64 [count], image i has repeats[i] of them on average, in each
    epoch that number rounded down or up by chance: places are drawn at equal distances along the sums of `repeats`
    (systematic sampling), and shuffled. `length` is the rounded sum, so averages are right to 1 / (2 count).
    """

    def __init__(self, count: int, repeats: np.ndarray | None = None):
        self.count, self.length, self.ends = count, count, None
        if repeats is not None:
            self.ends = np.cumsum(repeats)
            self.length = round(self.ends[-1])

    def at(self, seed: int, stream: int, epoch, position) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(index of the image at `position` of the epoch, its slot, the epoch's random key).

        Slots are what the epoch is a permutation of; one that shows an image again has a number of its own.
        """
        key = tf.constant([seed, stream], tf.int64)
        key = _random.stateless_fold_in(key, tf.cast(epoch, tf.int64), alg="philox")
        slot = _random.index_shuffle(position, key, self.length - 1)
        if self.ends is None:
            return slot, slot, key
        own = _random.stateless_fold_in(key, self.length, alg="philox")  # a number that no slot has
        offset = tf.random.stateless_uniform([], own, dtype=tf.float64, alg="philox")
        place = (tf.cast(slot, tf.float64) + offset) * (self.ends[-1] / self.length)
        index = tf.searchsorted(self.ends, place[None], side="right")[0]
        return tf.cast(tf.minimum(index, self.count - 1), slot.dtype), slot, key


def repeat_factors(presence: np.ndarray, threshold: float) -> np.ndarray:
    """How often images come in an epoch so that rare classes are seen more often: float64 [n], at least 1.

    Repeat factor sampling of Gupta, Dollar, Girshick (LVIS, CVPR 2019, arXiv 1908.03195, appendix B.2), as in
    detectron2's RepeatFactorTrainingSampler: a class that a share f of the images holds repeats them
    max(1, sqrt(threshold / f)) times, an image as often as the class of it that is repeated most.

    Args:
      presence: bool [n, K], which classes each image holds. threshold: the share below which a class is rare.
    """
    share = presence.mean(axis=0)
    of_class = np.sqrt(np.maximum(threshold / np.where(share > 0, share, 1), 1))
    return np.where(presence, of_class, 1.0).max(axis=1, initial=1.0)
