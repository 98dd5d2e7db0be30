"""DUpsampling's fit: windows, closed form against iteration against SGD, ignored pixels, memory, bad input."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from se_jax.dupsampling import factors
from se_jax.dupsampling.windows import LIMIT, Windows, label_windows
from se_jax.dupsampling.windows import one_hot as sparse_one_hot
from se_jax.losses.base import IGNORE
from se_jax.models.decoders.dupsampling import tile, untile

CLASSES, RATIO = 4, 4


def maps(count=12, shape=(32, 24), seed=0):
    """Label maps of smooth random regions, with nothing ignored."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 10
    for _ in range(count):
        fields = [np.sin(a * y + b * x + c) for a, b, c in rng.uniform(0, 6, (CLASSES, 3))]
        yield np.argmax(fields, 0).astype(np.uint8)


def counted(labels, ratio=RATIO, classes=CLASSES, **options):
    windows = Windows(classes, ratio, **options)
    for label in labels:
        windows.add(label)
    return windows


@pytest.fixture(scope="module")
def moments():
    return factors.Moments(*counted(maps()).arrays(), CLASSES)


def one_hot(windows):
    return np.eye(CLASSES)[windows].reshape(len(windows), -1)


# ---- Windows ----


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_untile_is_the_inverse_of_tile(ratio, rows, columns, channels, batch):
    x = np.random.default_rng(0).normal(size=(batch, rows * ratio, columns * ratio, channels))
    windows = tile(x, ratio)
    assert windows.shape == (batch, rows, columns, ratio**2 * channels)
    np.testing.assert_array_equal(untile(windows, ratio), x)
    dy, dx, c = ratio - 1, ratio // 2, channels - 1
    assert windows[0, rows - 1, 0, (dy * ratio + dx) * channels + c] == x[0, rows * ratio - 1, dx, c]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 11), st.integers(1, 11))
def test_a_map_that_does_not_divide_is_filled_up_with_ignored_pixels(ratio, height, width):
    label = np.random.default_rng(0).integers(0, CLASSES, (height, width)).astype(np.uint8)
    windows = label_windows(label, ratio)
    assert windows.shape == (-(-height // ratio), -(-width // ratio), ratio**2)
    whole = untile(windows[None], ratio)[0, :, :, 0]
    np.testing.assert_array_equal(whole[:height, :width], label)
    assert (whole[height:] == IGNORE).all() and (whole[:, width:] == IGNORE).all()


def test_one_hot_rows_are_in_the_order_of_tile():
    label = next(maps(1))
    label[3:6, 9] = IGNORE
    rows = sparse_one_hot(label_windows(label, RATIO).reshape(-1, RATIO**2), CLASSES)
    expected = tile(np.eye(256, dtype=np.float32)[label][None, ..., :CLASSES], RATIO)
    assert sparse.issparse(rows) and rows.nnz == label.size - 3
    np.testing.assert_array_equal(rows.toarray(), expected.reshape(rows.shape))


def test_windows_are_counted_once_with_their_number():
    labels = [*maps(3), *maps(3), np.zeros((9, 6), np.uint8), np.full((9, 6), IGNORE, np.uint8)]
    windows = counted(labels)
    values, counts = windows.arrays()
    every = np.concatenate([label_windows(label, RATIO).reshape(-1, RATIO**2) for label in labels])
    labelled = every[(every != IGNORE).any(1)]
    unique, expected = np.unique(labelled, axis=0, return_counts=True)
    order = np.lexsort(values.T[::-1])
    np.testing.assert_array_equal(values[order], unique)
    np.testing.assert_array_equal(counts[order], expected)
    assert windows.dropped == len(every) - len(labelled) == 6


def test_more_windows_than_memory_allows_are_thinned_out_fairly():
    labels = list(maps(60, seed=1))
    whole, thin = counted(labels), counted(labels, limit=6000)
    values, counts = thin.arrays()
    assert thin.level > 0
    mixed = (values != values[:, :1]).any(1)
    assert values[mixed].nbytes <= 6000 and (counts[mixed] >= 2**thin.level).all()
    _, all_counts = whole.arrays()
    assert abs(counts.sum() / all_counts.sum() - 1) < 0.2
    again, _ = counted(labels[::-1], limit=6000).arrays()  # in whatever order they come
    np.testing.assert_array_equal(np.sort(values, axis=0), np.sort(again, axis=0))


# ---- The fit ----


def test_moments_are_those_of_the_one_hot_vectors(moments):
    vectors = np.repeat(one_hot(moments.windows), moments.counts.astype(int), axis=0)
    np.testing.assert_allclose(moments.mean, vectors.mean(0), atol=1e-6)
    covariance = np.cov(vectors.T, bias=True)
    np.testing.assert_allclose(moments.covariance(), covariance, atol=1e-6)
    basis = np.random.default_rng(0).normal(size=(moments.size, 3))
    np.testing.assert_allclose(moments.times(basis), covariance @ basis, atol=1e-5)
    assert moments.variance == pytest.approx(np.trace(covariance))


def test_error_falls_with_the_codes_and_reaches_zero(moments):
    errors = []
    for codes in (1, 4, 16, moments.size):
        basis = factors.pca(moments, codes, dense=True)
        np.testing.assert_allclose(basis.T @ basis, np.eye(codes), atol=1e-5)
        vectors = one_hot(moments.windows) - moments.mean
        residual = np.square(vectors - vectors @ basis @ basis.T).sum(1) @ moments.counts / moments.total
        assert 1 - moments.captured(basis) / moments.variance == pytest.approx(residual / moments.variance, abs=1e-5)
        errors.append(residual)
    assert errors[0] > errors[1] > errors[2] > 1e-3 > abs(errors[3])


def test_subspace_iteration_finds_what_the_closed_form_does(moments, monkeypatch):
    dense = factors.pca(moments, 6, dense=True)
    monkeypatch.setattr(factors, "TOLERANCE", 1e-9)
    passes = []
    iterated = factors.pca(moments, 6, dense=False, progress=passes.append)
    np.testing.assert_allclose(iterated.T @ iterated, np.eye(6), atol=1e-5)
    assert moments.captured(iterated) == pytest.approx(moments.captured(dense), rel=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(dense * iterated, axis=0)), 1, atol=1e-3)  # vector by vector, up to sign
    share = 100 * moments.captured(dense) / moments.variance
    assert len(passes) > 2 and passes[-1] == f"pass {len(passes)}, {share:.3f} % of the variance captured"


def test_sgd_is_orthonormal_and_close_to_pca_but_not_better(moments):
    best = moments.captured(factors.pca(moments, 6, dense=True))
    basis = factors.sgd(moments, 6, steps=60)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-5)
    assert 0.97 * best < moments.captured(basis) <= best + 1e-6


def test_ignored_pixels_are_of_no_class_and_at_the_mean_of_the_others():
    rng = np.random.default_rng(0)
    labels = [np.where(rng.uniform(size=label.shape) < 0.3, IGNORE, label) for label in maps(6)]
    values, counts = counted(labels).arrays()
    found = factors.Moments(values, counts, CLASSES)
    windows = np.concatenate([label_windows(label, RATIO).reshape(-1, RATIO**2) for label in labels])
    seen = np.repeat(windows != IGNORE, CLASSES, 1)
    vectors = np.eye(256)[windows][..., :CLASSES].reshape(len(windows), -1)
    mean = vectors.sum(0) / seen.sum(0)
    centred = np.where(seen, vectors - mean, 0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.mean.reshape(-1, CLASSES).sum(1), 1)
    np.testing.assert_allclose(found.covariance(), centred.T @ centred / len(windows), atol=1e-6)
    np.testing.assert_allclose(found.times(np.eye(found.size)[:, :5]), found.covariance()[:, :5], atol=1e-6)
    assert found.variance == pytest.approx(np.trace(found.covariance()))
    more = [*labels, np.full((8, 8), IGNORE, np.uint8)]
    np.testing.assert_array_equal(factors.Moments(*counted(more).arrays(), CLASSES).mean, found.mean)


def peak(function) -> int:
    """The most bytes that `function` holds beyond what was there."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ade20ks_fit_stays_below_two_gigabytes(monkeypatch):
    """N = 38400: measured on few windows, what grows is scaled up to the sizes of the module's constants."""
    classes, ratio, limit = 150, 16, 1_000_000
    rng = np.random.default_rng(0)
    labels = [np.kron(rng.integers(0, classes, (40, 40)), np.ones((11, 13))).astype(np.uint8) for _ in range(12)]
    windows = Windows(classes, ratio, limit)

    def collect():
        for label in labels:
            windows.add(label)
        windows.arrays()

    of_windows = peak(collect) / limit
    assert windows.level > 0
    found, counts = windows.arrays()
    moments = factors.Moments(found[:800], counts[:800], classes)
    assert moments.size == 38_400 > factors.DENSE
    of_a_pixel = peak(lambda: factors.Moments(found[:800], counts[:800], classes)) / (800 * ratio**2)
    monkeypatch.setattr(factors.Moments, "covariance", lambda *_: pytest.fail("N^2 numbers"))
    monkeypatch.setattr(factors, "MOST_PASSES", 2)
    bases = peak(lambda: factors.pca(moments, 64, dense=False))
    assert of_windows * LIMIT + of_a_pixel * 2**22 + bases < 1.7e9


def test_labels_without_a_label_are_refused():
    with pytest.raises(ValueError, match="all pixels of all 48 windows are ignored"):
        counted([np.full((32, 24), 255, np.uint8)]).arrays()
