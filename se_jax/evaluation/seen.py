"""One view of a batch during inference; see `se_jax.evaluation.inference`."""

import numpy as np

from se_jax.evaluation import geometry
from se_jax.evaluation.protocol import View


class Seen:
    """A batch in one view: computes the windows that a tile needs when it needs them, and keeps them while it does."""

    def __init__(self, inference, variables, images, image_size, view: View, size):
        self.inference, self.variables, self.images = inference, variables, images
        self.image_size, self.view, self.size = image_size, view, size
        if view.fitted is not None:
            blends = (_padded(geometry.taps(*lengths)) for lengths in zip(image_size, view.fitted, strict=True))
            self.images, self.image_size = inference._fit(images, *blends), view.fitted
        self.window, self.starts = zip(*map(inference.protocol.windows, view.size, (0, 1)), strict=True)
        self.kept = {}  # (i, j) -> logits of the window in row i and column j
        self.matrices, self.bands = [], []  # for rows and for columns

    def logits(self, rows: slice, columns: slice, total):
        """`total` plus the view's logits on a tile."""
        if not self.matrices:
            self._start()
        across = [(j, self._tile(1, j, columns)) for j in self._meeting(1, columns)]
        for i in self._meeting(0, rows):
            along = self._tile(0, i, rows)
            for j, matrix in across:
                total = self.inference._add(total, self._window(i, j), along, matrix)
        return total

    def forget(self, above: int) -> None:
        """Lets go of the windows that no row of the image from `above` on needs."""
        needed = set(self._meeting(0, slice(above, None)))
        self.kept = {place: logits for place, logits in self.kept.items() if place[0] in needed}

    def _meeting(self, axis: int, tile: slice) -> list[int]:
        """Windows along an axis that matter in a tile."""
        return np.flatnonzero(self.matrices[axis][:, tile].any(axis=(1, 2))).tolist()

    def _tile(self, axis: int, window: int, tile: slice):
        """(start, matrix) of a window on a tile, as `_add` takes them."""
        matrix = self.matrices[axis][window, tile]
        start = min(int(matrix.any(axis=0).argmax()), geometry.bucket(matrix.shape[1]) - self.bands[axis])
        matrix = matrix[:, start : start + self.bands[axis]]
        full = np.zeros((self.inference.tile_length(self.size[axis]), self.bands[axis]), np.float32)
        full[: matrix.shape[0], : matrix.shape[1]] = matrix
        return np.int32(start), full

    def _start(self) -> None:
        self._window(0, 0)  # only the network knows the size of its logits
        align_corners = self.inference.model.align_corners
        logits, sides = self.inference.logit_sizes[self.window], (False, self.view.mirrored)
        lengths = zip(logits, self.window, self.starts, self.view.size, self.size, sides, strict=True)
        self.matrices = [geometry.restoration(*given, mirrored, align_corners) for *given, mirrored in lengths]
        self.bands = [geometry.band(m, self.inference.tiles(m.shape[1])) for m in self.matrices]

    def _window(self, i: int, j: int):
        if (i, j) not in self.kept:
            self.kept[i, j] = self.inference.window_logits(self.variables, self.images, self.blends(i, j), self.window)
        return self.kept[i, j]

    def blends(self, i: int, j: int):
        """What cuts the window in row i and column j out of the images, for rows and for columns."""
        return [self._blend(0, self.starts[0][i], False), self._blend(1, self.starts[1][j], self.view.mirrored)]

    def _blend(self, axis: int, start: int, mirrored: bool):
        """`geometry.taps` of a window's pixels in the image, padded."""
        fitted = geometry.taps(self.image_size[axis], self.view.size[axis])
        return _padded([array[:: -1 if mirrored else 1][start : start + self.window[axis]] for array in fitted])


def _padded(taps):
    """`geometry.taps`, padded, as `_fit` takes them."""
    lower, upper, share = (np.pad(array, (0, geometry.bucket(len(array)) - len(array))) for array in taps)
    return lower, upper, share.astype(np.float32)
