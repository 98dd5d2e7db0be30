"""DUpsampling's linear decoder of label patches: windows of labels, the fit of P and W, and what a fit leaves on disk.

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

import json
import pathlib

import numpy as np
from scipy import linalg, sparse

IGNORE = 255
DENSE = 6000  # up to this N the eigenvectors are computed from the covariance by default, above by subspace iteration
LIMIT = 250_000_000  # bytes of distinct windows that are kept
OVERSAMPLED = 16  # columns more than wanted in subspace iteration
MOST_PASSES, TOLERANCE = 30, 1e-4  # of subspace iteration, which ends once a pass adds less to the captured variance
SGD_STEPS, SGD_BATCH = 500, 512  # ours, as are the rates in `sgd`
FILES = ("dupsampling.npz", "dupsampling.json")
METHODS = ("auto", "dense", "randomized", "sgd")


# ---- Windows ----


def tile(x, ratio: int):
    """[b, h, w, c] -> [b, h / ratio, w / ratio, ratio * ratio * c]; element (dy * ratio + dx) * c + channel."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // ratio, ratio, w // ratio, ratio, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // ratio, w // ratio, ratio * ratio * c)


def untile(x, ratio: int):
    """The inverse of `tile`: [b, h, w, ratio * ratio * c] -> [b, h * ratio, w * ratio, c]."""
    b, h, w, n = x.shape
    x = x.reshape(b, h, w, ratio, ratio, n // ratio**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * ratio, w * ratio, n // ratio**2)


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


# ---- The fit ----


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
        labelled = sum(weights @ (part != IGNORE) for part, weights in self.chunks())
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


# ---- The options of a run, and what a fit leaves on disk ----


def check(config) -> None:
    """Raises ValueError, naming the option, for what DUpsampling cannot be trained or fitted with."""
    decoder = config.model.decoder
    if decoder.name != "dupsampling":
        if config.loss.name == "codes":
            raise ValueError(f"loss.name is 'codes', but model.decoder.name is {decoder.name!r}, which has no codes")
        return
    ratio, codes, classes = decoder.ratio, decoder.codes, config.model.num_classes
    stride = config.model.encoder.get("output_stride", 32)
    if ratio != stride:
        raise ValueError(
            f"model.decoder.ratio is {ratio}, but the encoder's last map has stride {stride} "
            f"(model.encoder.output_stride, 32 without that option); set the ratio to {stride}"
        )
    if not 1 <= codes <= ratio**2 * classes:
        raise ValueError(
            f"model.decoder.codes is {codes}; a window of {ratio}x{ratio} pixels of {classes} classes has "
            f"{ratio**2 * classes} numbers, so expected 1 to {ratio**2 * classes}"
        )
    if any(side % ratio > 1 for side in config.data.crop):
        below, above = (tuple((side + up) // ratio * ratio for side in config.data.crop) for up in (0, ratio - 1))
        raise ValueError(
            f"data.crop is {tuple(config.data.crop)}, but the decoder's windows have {ratio}x{ratio} pixels: each side "
            f"must be a multiple of {ratio}, or one more, e.g. {below} or {above}"
        )


def save(workdir, basis: np.ndarray, mean: np.ndarray, facts: dict) -> None:
    """Writes a fit: `basis` [N, codes] and `mean` [N] as float32, and what is known of it.

    Args:
      facts: JSON values; among them `classes` (their names), `ratio` and `codes`, which `load` compares.
    """
    arrays, text = (pathlib.Path(workdir) / name for name in FILES)
    np.savez(arrays, kernel=np.float32(basis.T), bias=np.float32(mean))
    text.write_text(json.dumps(facts, indent=1) + "\n")


def load(config, names) -> dict[str, np.ndarray]:
    """The fit that config.dupsampling_from names: {'kernel': float32 [codes, N], 'bias': float32 [N]}.

    Args:
      names: of the data set's classes.

    Raises:
      ValueError: the option is empty, or the fit is of other classes, another ratio or number of codes.
      FileNotFoundError: no fit there.
    """
    workdir = config.dupsampling_from
    command = "python -m se_jax.dupsample_fit --config=FILE --workdir=DIR, with this run's config and data"
    if not workdir:
        raise ValueError(
            f"dupsampling_from is empty: decoder 'dupsampling' needs a fit to the training labels. Run {command}, then "
            "set --config.dupsampling_from=DIR"
        )
    arrays, text = (pathlib.Path(workdir) / name for name in FILES)
    if not (arrays.exists() and text.exists()):
        raise FileNotFoundError(f"dupsampling_from={workdir}: {arrays} or {text.name} is missing; run {command}")
    facts = json.loads(text.read_text())
    decoder = config.model.decoder
    for what, found, wanted, option in (
        ("classes", facts["classes"], list(names), "config.data"),
        ("ratio", facts["ratio"], decoder.ratio, "model.decoder.ratio"),
        ("codes", facts["codes"], decoder.codes, "model.decoder.codes"),
    ):
        if found != wanted:
            found, wanted = (f"{len(x)} {x[:3]}" if what == "classes" else x for x in (found, wanted))
            raise ValueError(
                f"dupsampling_from={workdir}: fitted for {what} {found}, but this run has {wanted} ({option}); "
                f"fit again: {command}"
            )
    with np.load(arrays) as stored:
        return {name: stored[name] for name in ("kernel", "bias")}
