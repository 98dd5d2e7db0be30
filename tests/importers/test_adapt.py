"""What is done to tensors of another size: bias tables of other windows, first convolutions of other channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_jax.importers import adapt
from se_jax.models.positions import cubic_matrix

LINE = np.array([1.0, -2.0, 3.0, 0.5, 4.0], np.float32)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (7, [1.2361526, -1.2653061, -0.8994161, 3.0, 0.9956261, 1.7069964, 4.2755127]),
        (3, [-0.2222217, 3.0, 2.7592576]),
    ],
)
def test_bicubic_is_torchs(length, expected):
    """Recorded from torch.nn.functional.interpolate(mode='bicubic', align_corners=False)."""
    np.testing.assert_allclose(cubic_matrix(5, length) @ LINE, expected, rtol=1e-5)


@given(st.integers(1, 30), st.integers(1, 30))
def test_bicubic_keeps_constants_and_a_size_that_fits(source, length):
    np.testing.assert_allclose(cubic_matrix(source, length).sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(cubic_matrix(source, source), np.eye(source))


def test_rows_and_columns_of_a_bias_table_are_not_confused():
    rows, columns = np.meshgrid(LINE, np.arange(5), indexing="ij")
    table = np.stack([rows, columns], -1).reshape(25, 2)
    resized = adapt.resize_bias_table(table, 7).reshape(7, 7, 2)
    np.testing.assert_allclose(resized[:, 3, 0], cubic_matrix(5, 7) @ LINE, rtol=1e-6)
    np.testing.assert_allclose(resized[3, :, 1], cubic_matrix(5, 7) @ np.arange(5), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_a_kernel_for_other_channels_answers_grey_alike(channels):
    kernel = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    converted = adapt.convert_channels(kernel, channels)
    assert converted.shape == (8, channels, 3, 3)
    if channels in (1, 6):  # a grey image has the same value in every channel
        np.testing.assert_allclose(converted.sum(1), kernel.sum(1), rtol=1e-5, atol=1e-6)
