"""DUpsampling's linear decoder of label patches: the fit of P and W to windows of labels.

Source: Tian et al., "Decoders Matter for Semantic Segmentation", CVPR 2019 (arXiv 1903.02120). A label map is cut into
windows of ratio x ratio pixels, a window is one-hot encoded into a vector v of N = ratio * ratio * classes numbers, and
P [codes, N] and W [N, codes] minimise the sum of |v - W P v|^2 over the training set. The paper offers SGD, or, with
orthonormal columns, PCA in closed form; `python -m se_jax.dupsample_fit` fits either.

Ours, as the paper's text that we have does not settle it:
- The vectors are centred: codes are P (v - mean), reconstructions W x + mean, and P is W transposed.
- An ignored pixel is of no class: where a window has one, v - mean is 0, and the mean is that of the labelled pixels.
  To leave such windows out would leave out most edges where, as in PASCAL VOC, the edges themselves are ignored.
- A map whose sides the ratio does not divide is filled up with ignored pixels at the bottom and right.

The fit needs two gigabytes at most, ADE20K's N = 38400 included: windows that occur again are kept once, with their
number, one-hot vectors exist as sparse rows of a chunk at a time, and only for small N as the covariance's square.
"""

import numpy as np
from scipy import linalg

from se_jax.dupsampling.windows import one_hot
from se_jax.losses.base import IGNORE

DENSE = 6000  # up to this N the eigenvectors are computed from the covariance by default, above by subspace iteration
OVERSAMPLED = 16  # columns more than wanted in subspace iteration
MOST_PASSES, TOLERANCE = 30, 1e-4  # of subspace iteration, which ends once a pass adds less to the captured variance
SGD_STEPS, SGD_BATCH = 500, 512  # ours, as are the rates in `sgd`
METHODS = ("auto", "dense", "randomized", "sgd")


class Centred:
    """v - mean of windows uint8 [n, pixels], 0 where ignored, as a matrix [n, N] of which only the ones are kept."""

    def __init__(self, windows: np.ndarray, mean: np.ndarray):
        self.classes = len(mean) // windows.shape[1]
        self.mean = mean.astype(np.float32)[:, None]
        self.rows = one_hot(windows, self.classes)
        self.labelled = (windows != IGNORE).astype(np.float32)

    def times(self, basis: np.ndarray) -> np.ndarray:
        """[N, k] -> float32 [n, k]; of an orthonormal basis the codes."""
        basis = basis.astype(np.float32)
        of_pixels = (self.mean * basis).reshape(-1, self.classes, basis.shape[1]).sum(1)
        return self.rows @ basis - self.labelled @ of_pixels

    def transposed_times(self, codes: np.ndarray) -> np.ndarray:
        """float32 [n, k] -> [N, k]."""
        return self.rows.T @ codes - self.mean * np.repeat(self.labelled.T @ codes, self.classes, 0)


class Moments:
    """Mean and covariance of the one-hot vectors of windows [n, ratio * ratio] that occur `counts` [n] times.

    Attributes:
      mean: float64 [N], of the windows in which the pixel is labelled. variance: the mean of |v - mean|^2.
    """

    def __init__(self, windows: np.ndarray, counts: np.ndarray, num_classes: int):
        self.windows, self.counts, self.num_classes = windows, counts, num_classes
        self.total = counts.sum()
        labelled = np.sum([weights @ (part != IGNORE) for part, weights in self.chunks()], axis=0)
        sums = sum(one_hot(part, num_classes).T @ weights for part, weights in self.chunks())
        self.mean = sums / np.repeat(np.maximum(labelled, 1), num_classes)
        self.variance = float(labelled.sum() - sums @ self.mean) / self.total  # every labelled pixel has a one

    @property
    def size(self) -> int:
        """N, the length of a one-hot vector."""
        return self.windows.shape[1] * self.num_classes

    def chunks(self, numbers: int = 2**22):
        """(windows, their counts), so many at a time that a chunk has at most `numbers` pixels."""
        step = max(1, numbers // self.windows.shape[1])
        for start in range(0, len(self.windows), step):
            part = slice(start, start + step)
            yield self.windows[part], self.counts[part]

    def times(self, basis: np.ndarray) -> np.ndarray:
        """The covariance [N, N] times `basis` [N, k]; costs 2 k ratio^2 multiply-adds a window."""
        product = np.zeros(basis.shape)
        for part, weights in self.chunks():
            centred = Centred(part, self.mean)
            product += centred.transposed_times(centred.times(basis) * weights[:, None].astype(np.float32))
        return product / self.total

    def covariance(self, progress=None) -> np.ndarray:
        """float64 [N, N]; costs N^2 multiply-adds a window."""
        product, done = np.zeros((self.size, self.size)), 0
        for part, weights in self.chunks(max(1, 2**24 // self.size) * self.windows.shape[1]):
            dense = one_hot(part, self.num_classes).toarray()
            dense -= np.repeat(part != IGNORE, self.num_classes, 1) * self.mean.astype(np.float32)
            product += (dense * weights[:, None].astype(np.float32)).T @ dense
            done += len(part)
            if progress is not None:
                progress(f"{done} of {len(self.windows)} windows")
        return product / self.total

    def captured(self, basis: np.ndarray) -> float:
        """The part of the variance that the orthonormal columns of `basis` reconstruct."""
        return float(np.sum(basis * self.times(basis)))


def pca(moments: Moments, codes: int, *, dense: bool, progress=None) -> np.ndarray:
    """The covariance's `codes` leading eigenvectors, float64 [N, codes], largest first.

    Args:
      dense: by LAPACK, from the covariance's N^2 numbers; False: by randomized subspace iteration (Halko et al., 2011),
        which needs N (codes + 16) numbers and a pass over the windows an iteration.
      progress: called with a line that says how far the fit is.
    """
    size = moments.size
    if dense:
        _, vectors = linalg.eigh(
            moments.covariance(progress), subset_by_index=(size - codes, size - 1), overwrite_a=True
        )
        return vectors[:, ::-1]
    width = min(codes + OVERSAMPLED, size)
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, width)))
    before = 0.0
    for passed in range(1, MOST_PASSES + 1):
        product = moments.times(basis)
        values, turn = np.linalg.eigh(basis.T @ product)  # the best orthonormal columns in the span of `basis`
        captured = values[-codes:].sum()
        if progress is not None:
            progress(f"pass {passed}, {100 * captured / moments.variance:.3f} % of the variance captured")
        found = basis @ turn[:, ::-1][:, :codes]
        if captured - before <= TOLERANCE * captured:
            break
        before = captured
        basis, _ = np.linalg.qr(product)
    return found


def sgd(moments: Moments, codes: int, *, steps: int = SGD_STEPS, progress=None) -> np.ndarray:
    """The second way: stochastic gradient steps on |v - W W^T v|^2 (centred), each followed by W's orthonormalisation.

    Args:
      progress: called with a line that says how far the fit is.

    Returns:
      float64 [N, codes] with orthonormal columns; close to `pca`'s span, and never better.
    """
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(moments.size, codes)))
    upper = np.cumsum(moments.counts) / moments.total
    for step in range(steps):
        drawn = np.minimum(np.searchsorted(upper, rng.random(SGD_BATCH)), len(upper) - 1)
        centred = Centred(moments.windows[drawn], moments.mean)
        gradient = centred.transposed_times(centred.times(basis)) / SGD_BATCH
        rate = 2000 / moments.variance / (1 + 40 * step / steps)
        basis, _ = np.linalg.qr(basis + rate * gradient)
        if progress is not None:
            progress(f"step {step + 1} of {steps}")
    return basis
