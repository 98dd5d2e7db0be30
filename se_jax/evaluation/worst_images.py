"""Each class's worst images: the few in which label and prediction of the class agree least."""

import dataclasses
import pathlib

import numpy as np

from se_jax.evaluation.metrics import ImageAreas
from se_jax.report.errors import shown

KEPT = 3  # images a class


@dataclasses.dataclass(frozen=True)
class WorstImages(ImageAreas):
    """Of every class the `kept` images with the lowest IoU of it; the same ones in whatever order images come.

    An image counts for a class that its label or its prediction holds. Of images with the same IoU, 0 mostly, that with
    more wrong pixels is worse, then the first. The total holds 3 * kept * K numbers, however many images there are.
    """

    kept: int = KEPT

    def empty(self):
        """IoU (inf: nothing there), -wrong pixels, index: float64 [3, kept, K]."""
        return np.full((3, self.kept, len(self.names)), np.inf)

    def add(self, total, state, index):
        right, union = np.moveaxis(np.asarray(state, np.float64), 1, 0)  # whole numbers below 2**53: exact
        iou = np.where(union > 0, right / np.maximum(union, 1), np.inf)
        new = np.stack([iou, right - union, np.broadcast_to(np.asarray(index, np.float64)[:, None], iou.shape)])
        both = np.concatenate([total, new], axis=1)
        order = np.lexsort(both[::-1], axis=0)[: self.kept]
        return np.take_along_axis(both, order[None], axis=1)

    def compute(self, total):
        """{'worst': {class: [{'image': file name, 'index': i, 'iou': fraction, 'wrong': pixels}, the worst first]}}."""

        def entry(iou, wrong, index):
            image = pathlib.PurePath(self.image_name(int(index))).name
            return {"image": image, "index": int(index), "iou": float(iou), "wrong": int(-wrong)}

        columns = zip(self.names, total.transpose(2, 1, 0), strict=True)
        return {"worst": {name: [entry(*row) for row in rows if np.isfinite(row[0])] for name, rows in columns}}

    def examples(self, result):
        return [entry["index"] for _, entry in shown(result)]
