"""Geometry of one axis of an image, on the host: what resizes, mirrors, cuts out windows and puts them back.

All of it is linear, so that it can be given to a compiled program as data: `taps` (of `se_jax.models.interpolation`)
for what lies before the network, `restoration` for what lies behind it. Used by `se_jax.evaluation.inference`.
"""

import functools

import numpy as np

from se_jax.models.interpolation import taps


def bucket(length: int) -> int:
    """The length that arrays of this length are padded to: the next power of two, at least 8."""
    return max(8, 1 << (length - 1).bit_length())


def blend(matrix, lower, upper, share):
    """The rows of `matrix` blended as `taps` says."""
    return matrix[lower] * (1 - share)[:, None] + matrix[upper] * share[:, None]


@functools.lru_cache(maxsize=32)  # the axes of an image in twelve views; images of one size follow one another
def restoration(source: int, window: int, starts: tuple[int, ...], length: int, final: int, mirrored, align_corners):
    """From the logits of windows to those of the image, along an axis: one matrix a window, whose products are summed.

    A window's `source` logits are resized to the `window` pixels it has from its start in the `length` pixels of the
    network's input; there the windows are averaged, mirrored back, and resized to the image's `final` pixels.

    Returns:
      float32 [windows, final, source].
    """
    enlarged = blend(np.eye(source), *taps(source, window, align_corners))
    placed = np.zeros((len(starts), length, source))
    covered = np.zeros((length, 1))
    for matrix, start in zip(placed, starts, strict=True):
        matrix[start : start + window] = enlarged
        covered[start : start + window] += 1
    placed = placed[:, ::-1] / covered[::-1] if mirrored else placed / covered
    last = taps(length, final, align_corners)
    return np.stack([blend(matrix, *last) for matrix in placed]).astype(np.float32)


def band(matrices, cuts: list[slice]) -> int:
    """Logits in a row that suffice for any of the tiles `cuts`, out of any window; of `restoration`'s matrices."""
    longest = 1
    for tile in cuts:
        used = matrices[:, tile].any(axis=1)
        extent = used.shape[1] - used[:, ::-1].argmax(axis=1) - used.argmax(axis=1)
        longest = max(longest, (extent * used.any(axis=1)).max())
    return bucket(int(longest))


def padded(array, shape, value=0):
    """`array`, filled up with `value` behind its last axes' ends to `shape`, the lengths of the axes after the first.

    Axes beyond those named in `shape` are kept.
    """
    ends = [(0, 0), *((0, side - have) for side, have in zip(shape, array.shape[1:], strict=False))]
    ends += [(0, 0)] * (array.ndim - len(ends))
    return np.pad(array, ends, constant_values=value)
