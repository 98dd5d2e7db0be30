"""Geometry of an axis: the same resizes as the network's, and matrices that put windows back."""

import numpy as np
import pytest

from se_jax.evaluation import geometry
from se_jax.models.layers import resize


def test_buckets_are_powers_of_two():
    assert [geometry.bucket(n) for n in (1, 8, 9, 512, 513)] == [8, 8, 16, 512, 1024]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("source, length", [(9, 31), (31, 9), (7, 7), (1, 5), (5, 1), (12, 97)])
def test_taps_are_the_resize_of_the_layers(source, length, align_corners):
    x = np.random.default_rng(0).normal(size=(source, 4)).astype(np.float32)
    expected = resize(x[None, :, None], (length, 1), align_corners)[0, :, 0]
    found = geometry.blend(x, *geometry.taps(source, length, align_corners))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_restoration_averages_windows(mirrored):
    """Windows that hold the axis itself, one number a pixel, give the axis back, resized."""
    axis, starts = np.random.default_rng(0).normal(size=21), (0, 6, 11)
    matrices = geometry.restoration(10, 10, starts, 21, 13, mirrored, False)
    assert matrices.shape == (3, 13, 10) and matrices.dtype == np.float32
    found = sum(matrix @ axis[start : start + 10] for matrix, start in zip(matrices, starts, strict=True))
    expected = geometry.blend((axis[::-1] if mirrored else axis)[:, None], *geometry.taps(21, 13))[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(matrices.sum((0, 2)), 1, atol=1e-6)


def test_a_band_holds_what_any_tile_needs():
    matrices = geometry.restoration(32, 256, (0,), 256, 256, False, False)  # eight times larger
    assert geometry.band(matrices, [slice(0, 256)]) == 32
    cuts = [slice(start, start + 64) for start in range(0, 256, 64)]
    needed = [np.flatnonzero(matrices[0, cut].any(0)) for cut in cuts]
    assert max(map(len, needed)) == 10 and geometry.band(matrices, cuts) == 16


def test_padding_leaves_further_axes_alone():
    found = geometry.padded(np.ones((2, 3, 4, 5), np.uint8), (4, 8), 7)
    assert found.shape == (2, 4, 8, 5) and found.sum() == 2 * 3 * 4 * 5 + 7 * 2 * 5 * (4 * 8 - 3 * 4)
