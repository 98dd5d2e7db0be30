"""Each class's worst images: the few in which label and prediction of the class agree least, found while evaluating."""

import pathlib

import numpy as np

KEPT = 3  # images a class
SHOWN = 8  # classes whose worst image is shown: a report has a bounded size, however many classes there are


class Worst:
    """Of every class the `kept` images with the lowest IoU of it; the same ones in whatever order images come.

    An image counts for a class that its label or its prediction holds. Of images with the same IoU, 0 mostly, that with
    more wrong pixels is worse, then the first. Holds 3 * kept * K numbers.
    """

    def __init__(self, num_classes: int, kept: int = KEPT):
        self.kept = kept
        self.entries = np.full((3, kept, num_classes), np.inf)  # IoU (inf: nothing there), -wrong pixels, index

    def add(self, index, areas) -> None:
        """Takes images in: their index [b] and int32 [b, 2, K] of `metrics.areas`, 0 where an image is a filler."""
        right, union = np.moveaxis(np.asarray(areas, np.float64), 1, 0)  # whole numbers below 2**53: exact
        iou = np.where(union > 0, right / np.maximum(union, 1), np.inf)
        new = np.stack([iou, right - union, np.broadcast_to(np.asarray(index, np.float64)[:, None], iou.shape)])
        both = np.concatenate([self.entries, new], axis=1)
        order = np.lexsort(both[::-1], axis=0)[: self.kept]
        self.entries = np.take_along_axis(both, order[None], axis=1)

    def table(self, names, source) -> dict:
        """{class: [{'image': file name, 'index': i, 'iou': fraction, 'wrong': pixels}, the worst first]}, for JSON."""

        def entry(iou, wrong, index):
            image = pathlib.PurePath(source.image_name(int(index))).name
            return {"image": image, "index": int(index), "iou": float(iou), "wrong": int(-wrong)}

        columns = zip(names, self.entries.transpose(2, 1, 0), strict=True)
        return {name: [entry(*row) for row in rows if np.isfinite(row[0])] for name, rows in columns}


def shown(result: dict) -> list[tuple[str, dict]]:
    """(class, worst image) of the classes with the lowest IoU in a result that has a table, without faultless ones.

    Of classes with the same IoU, 0 mostly, those come first whose worst image has more wrong pixels.
    """
    worst = {name: rows[0] for name, rows in result.get("worst", {}).items() if rows and rows[0]["wrong"]}
    return [
        (name, worst[name])
        for name in sorted(worst, key=lambda name: (result["iou"][name], -worst[name]["wrong"]))[:SHOWN]
    ]


def indices(result: dict) -> list[int]:
    """Of the images that are `shown`."""
    return [entry["index"] for _, entry in shown(result)]


def border(mask):
    """bool [h, w] -> bool [h, w]: its pixels, and those beside it, where it meets what it does not hold."""
    edge = np.zeros_like(mask)
    for axis in (0, 1):
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differs = mask[tuple(ahead)] != mask[tuple(behind)]
        edge[tuple(ahead)] |= differs
        edge[tuple(behind)] |= differs
    return edge


def surroundings(mask, least: float = 0.25) -> tuple[slice, slice]:
    """The part of a picture around what a bool [h, w] mask holds: with a margin, in the picture's own shape.

    It is at least that share of the picture, a side, so that one can still see where one is.
    """
    spots = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    if not len(spots[0]):
        return slice(None), slice(None)
    middles = [(along[0] + along[-1] + 1) / 2 for along in spots]
    extents = [(along[-1] + 1 - along[0]) / side for along, side in zip(spots, mask.shape, strict=True)]
    share = min(max(1.5 * max(extents), least), 1)

    def part(middle, side):
        length = round(share * side)
        start = min(max(round(middle - length / 2), 0), side - length)
        return slice(start, start + length)

    return tuple(part(middle, side) for middle, side in zip(middles, mask.shape, strict=True))
