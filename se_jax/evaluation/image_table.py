"""The scores of every single image, as a table of one row an image."""

import dataclasses

import numpy as np

from se_jax.evaluation.metrics import ImageAreas


@dataclasses.dataclass(frozen=True)
class ImageTable(ImageAreas):
    """Of every image its mIoU, its pixel accuracy, and the IoU of each class that its label or its prediction holds.

    The total is int64 [images, 2, K], in the order of the data set; -1 for an image that could not be read.

    Attributes:
      images: how many the data set has.
    """

    images: int = 0

    def empty(self):
        return np.full((self.images, 2, len(self.names)), -1, np.int64)

    def add(self, total, state, index):
        there = index >= 0
        total[index[there]] = np.asarray(state)[there]  # in its place: a copy a batch would cost images x images
        return total

    def compute(self, total):
        return {}

    def tables(self, total):
        """per_image: image, pixels that are labelled, miou, accuracy, IoU a class; fractions, '' where there is none.

        An image's miou is the mean over its own classes, so the mean of the column is not the data set's mIoU.
        """
        rows: list[list] = [["image", "pixels", "miou", "accuracy", *(f"iou/{name}" for name in self.names)]]
        for index, (right, union) in enumerate(total):
            if right.min() < 0:
                continue
            # of n labelled pixels n are predicted, too: the unions hold 2 n - right
            pixels = int(right.sum() + union.sum()) // 2
            ious = [r / u if u else None for r, u in zip(right.tolist(), union.tolist(), strict=True)]
            held = [iou for iou in ious if iou is not None]
            means = [sum(held) / len(held), int(right.sum()) / pixels] if held else [None, None]
            cells = ["" if value is None else f"{value:.6f}" for value in (*means, *ious)]
            rows.append([self.image_name(index), pixels, *cells])
        return {"per_image": rows}
