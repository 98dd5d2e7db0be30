"""Where the values of a linear interpolation along an axis come from; on the host, as numbers known while tracing."""

import numpy as np


def taps(source: int, length: int, align_corners: bool = False):
    """A bilinear resize of an axis, as torch's: output i is lower[i] and upper[i] blended, share[i] being upper's."""
    outputs = np.arange(length)
    if align_corners:
        position = outputs * ((source - 1) / max(length - 1, 1))
    else:
        position = np.maximum((outputs + 0.5) * (source / length) - 0.5, 0)
    lower = np.minimum(position.astype(np.int32), source - 1)
    return lower, np.minimum(lower + 1, source - 1), position - lower
