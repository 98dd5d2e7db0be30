"""Borders of a class in a picture, and the part of the picture around them."""

import numpy as np


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

    rows, columns = (part(middle, side) for middle, side in zip(middles, mask.shape, strict=True))
    return rows, columns
