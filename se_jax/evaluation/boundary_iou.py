"""Boundary IoU: the IoU of what lies near the borders of the classes, where large objects hide their errors."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from se_jax.evaluation.metrics import Metric
from se_jax.losses.base import IGNORE

RATIO = 0.02  # of the image's diagonal: how far a border's region reaches into a class


@dataclasses.dataclass(frozen=True)
class BoundaryIoU(Metric):
    """Boundary IoU of every class and their mean (Cheng et al., CVPR 2021, arXiv 2103.16562, section 5).

    A mask's inner boundary region is what d erosions by 3 x 3 take from it, d being 0.02 of the image's diagonal,
    rounded, at least 1; the image's border counts as the mask's, as in boundary_iou_api. The authors give that for
    masks of instances and of panoptic segments. For classes, here, intersections and unions of the regions are summed
    over the data set, as those of IoU are. An ignored pixel is of no class: it makes no border and is not counted,
    whatever is predicted there.

    Attributes:
      names: of the classes.
    """

    whole: ClassVar[bool] = True
    names: tuple[str, ...]

    def init(self, images):
        return jnp.zeros((2, len(self.names)), jnp.int32)

    def update_whole(self, state, ids, label, size):
        classes = len(self.names)
        kept = label < classes
        reach = distance(size)
        near_label, near_ids = (kept & inner_boundary(x, kept, size, reach) for x in (label, ids))

        def count(x, where):
            return jnp.bincount(jnp.where(where, x, IGNORE).ravel().astype(jnp.int32), length=IGNORE + 1)[:classes]

        right = count(label, near_label & near_ids & (label == ids))
        union = count(label, near_label) + count(ids, near_ids) - right
        return state + jnp.stack([right, union]).astype(jnp.int32)

    def compute(self, total):
        """{'boundary_miou': the mean over the classes that have one, 'boundary_iou': {class: fraction or None}}."""
        right, union = total
        found = [r / u if u else None for r, u in zip(right.tolist(), union.tolist(), strict=True)]
        there = [iou for iou in found if iou is not None]
        mean = float(np.mean(there)) if there else None
        return {"boundary_miou": mean, "boundary_iou": dict(zip(self.names, found, strict=True))}


def distance(size):
    """How many pixels a boundary region is wide; size: (height, width), traced or not."""
    height, width = (jnp.asarray(side, jnp.float32) for side in size)
    return jnp.maximum(jnp.round(RATIO * jnp.sqrt(height**2 + width**2)), 1).astype(jnp.int32)


def inner_boundary(ids, kept, size, reach):
    """bool [b, h, w]: pixels with one of another class, or the outside, at most `reach` rows and columns away.

    A pixel is in its class's boundary region if the classes around it are not all the same: one minimum and one maximum
    serve all classes.

    Args:
      ids: uint8 [b, h, w]. kept: bool [b, h, w]; other pixels have no class. size: (h, w) of the images inside.
      reach: int32, at least 1.
    """
    low, high = jnp.where(kept, ids, 255), jnp.where(kept, ids + 1, 0)  # neutral ones, in bytes

    def wider(x, start, pick):
        for window in ((1, 3, 1), (1, 1, 3)):  # by rows, then by columns: many times faster than at once
            x = lax.reduce_window(x, np.uint8(start), pick, window, (1, 1, 1), "SAME")
        return x

    def step(_, around):
        return wider(around[0], 255, lax.min), wider(around[1], 0, lax.max)

    low, high = lax.fori_loop(0, reach, step, (low, high))
    outside = jnp.zeros(ids.shape[1:], bool)
    for axis in (0, 1):
        place = lax.broadcasted_iota(jnp.int32, outside.shape, axis)
        outside |= (place < reach) | (place >= size[axis] - reach)
    return (low + 1 != high) | outside
