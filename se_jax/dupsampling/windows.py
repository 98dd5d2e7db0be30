"""Windows of labels for DUpsampling's linear decoder: cut out of label maps, counted, as one-hot vectors.

An ignored pixel is of no class. A map whose sides the ratio does not divide is filled up with ignored pixels at the
bottom and right. See `se_jax.dupsampling.factors` for what is fitted to them.
"""

import numpy as np
from scipy import sparse

from se_jax.losses.base import IGNORE
from se_jax.models.decoders.dupsampling import tile

LIMIT = 250_000_000  # bytes of distinct windows that are kept


def label_windows(label, ratio: int) -> np.ndarray:
    """Labels uint8 [h, w] -> [ceil(h / ratio), ceil(w / ratio), ratio * ratio], filled up with ignored pixels."""
    padded = np.pad(label, [(0, -side % ratio) for side in label.shape], constant_values=IGNORE)
    return tile(padded[None, :, :, None], ratio)[0]


def one_hot(windows: np.ndarray, num_classes: int) -> sparse.csr_matrix:
    """Windows uint8 [n, pixels] -> their one-hot vectors, sparse float32 [n, N]; zeros where pixels are ignored."""
    n, pixels = windows.shape
    labelled = windows != IGNORE
    columns = np.arange(pixels, dtype=np.int32) * num_classes + windows
    ends = np.concatenate([[0], np.cumsum(labelled.sum(1))])
    return sparse.csr_matrix((np.ones(ends[-1], np.float32), columns[labelled], ends), (n, pixels * num_classes))


class Windows:
    """The distinct windows of many label maps and how often each occurs, in bounded memory.

    Windows of one class, which are most, are counted exactly. Where the others exceed `limit` bytes, those of one half
    of all possible windows are dropped and the others count twice, and so on. A hash of the window decides, so that the
    result depends on neither order nor chance.

    Attributes:
      dropped: windows left out as all of their pixels are ignored. level: how often a half was dropped.
    """

    def __init__(self, num_classes: int, ratio: int, limit: int = LIMIT):
        self.num_classes, self.ratio, self.limit = num_classes, ratio, limit
        self.dropped = self.level = 0
        self._uniform = np.zeros(num_classes)
        self._mixed = np.zeros((0, ratio * ratio), np.uint8)
        self._counts = np.zeros(0)
        self._pending = []

    @property
    def size(self) -> int:
        """N, the length of a one-hot vector."""
        return self.ratio**2 * self.num_classes

    def add(self, label: np.ndarray) -> None:
        """Counts the windows of a label map, uint8 [h, w]."""
        windows = label_windows(label, self.ratio).reshape(-1, self.ratio**2)
        labelled = (windows != IGNORE).any(1)
        self.dropped += int((~labelled).sum())
        windows = windows[labelled]
        uniform = (windows == windows[:, :1]).all(1)
        self._uniform += np.bincount(windows[uniform, 0], minlength=self.num_classes)
        self._pending.append(windows[~uniform])
        if sum(part.nbytes for part in self._pending) > self.limit // 8:
            self._merge()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(windows uint8 [n, ratio * ratio], how often each occurs, float64 [n]).

        Raises:
          ValueError: there is no window.
        """
        self._merge()
        classes = np.flatnonzero(self._uniform)
        pixels = np.repeat(classes[:, None], self.ratio**2, 1).astype(np.uint8)
        counts = np.concatenate([self._uniform[classes], self._counts * 2**self.level])
        if not counts.size:
            raise ValueError(
                f"all pixels of all {self.dropped} windows are ignored; there is nothing to fit the decoder to"
            )
        return np.concatenate([pixels, self._mixed]), counts

    def _merge(self) -> None:
        pending = np.concatenate(self._pending) if self._pending else self._mixed[:0]
        self._pending = []
        windows = np.concatenate([self._mixed, pending])
        keys, first, place = np.unique(_hash(windows), return_index=True, return_inverse=True)
        counts = np.bincount(place, np.concatenate([self._counts, np.ones(len(pending))]), len(keys))
        keep = keys % 2**self.level == 0
        while keep.sum() * windows.shape[1] > self.limit:
            self.level += 1
            keep = keys % 2**self.level == 0
        self._mixed, self._counts = windows[first[keep]], counts[keep]


def _hash(windows: np.ndarray) -> np.ndarray:
    """64 well-mixed bits of each window."""
    factors = np.random.default_rng(0).integers(0, 2**63, windows.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.zeros(len(windows), np.uint64)
    for pixel, factor in zip(windows.T, factors, strict=True):
        keys += pixel * factor
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finaliser
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(33))
