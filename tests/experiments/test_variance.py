"""The closed form of what a resize keeps of the variance, and the measurement beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import variance
from se_jax.models import FCNHead, PSPHead
from se_jax.models.layers import resize


@pytest.mark.parametrize("source, target", [(128, 256), (128, 512), (5, 15), (6, 16), (2, 9), (1, 7)])
def test_kept_of_white_noise_is_the_resize_matrix(source, target):
    matrix = np.asarray(resize(jnp.eye(source)[None, :, :, None], (target, source))[0, :, :, 0])
    np.testing.assert_allclose(variance.kept(source, target), (matrix**2).sum() / target, rtol=1e-6)


def test_kept_in_closed_form():
    """R(s) + (1 - R(s)) / N with R(2) = 5/8, R(4) = 21/32; neighbours that are equal lose nothing."""
    for factor, white in ((2, 5 / 8), (4, 21 / 32)):
        np.testing.assert_allclose(variance.kept(64, 64 * factor), white + (1 - white) / 64)
    assert variance.kept(64, 128, 1.0) == 1.0


def correlated(rng, shape, rho):
    """Fields whose neighbours correlate by rho along both axes."""
    x = rng.normal(size=shape)
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        for i in range(1, len(x)):
            x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * x[i]
        x = np.moveaxis(x, 0, axis)
    return np.float32(x)


def test_measured_branches_agree_with_the_closed_form():
    rng = np.random.default_rng(0)
    maps = tuple(3 + correlated(rng, (4, side, side, 6), rho) for side, rho in ((32, 0.0), (16, 0.0), (8, 0.6)))
    head = FCNHead(3, channels=4, num_convs=1, kernel_size=1, concat_input=False, resize_concat=True, in_index=0)
    variables = jax.jit(head.init)(jax.random.key(0), maps)
    rows = variance.Meter(head)(variables, [maps] * 2)[("convs_0", "resize_concat")]
    assert [row["kind"] for row in rows.values()] == ["encoder"] * 3
    plain, white, smooth = rows.values()
    assert plain["kept"] == pytest.approx(1) and plain["std_before"] == pytest.approx(maps[0].std(), rel=1e-5)
    assert white["mean"] == pytest.approx(maps[1].mean(), rel=1e-2)
    assert white["kept"] == pytest.approx(white["kept_expected"], abs=0.02)
    assert white["kept_white"] == pytest.approx(white["kept_expected"], abs=0.03)
    assert smooth["kept"] == pytest.approx(smooth["kept_expected"], abs=0.03)
    assert smooth["kept_white"] < smooth["kept"] - 0.2
    assert variance.shares(rows)["resize"] == pytest.approx(1 - variance.shares(rows)["encoder"])


def test_kinds_and_shares_of_a_pooling_head():
    rng = np.random.default_rng(0)
    maps = (np.float32(4 * rng.normal(size=(4, 12, 12, 8))),)
    head = PSPHead(3, channels=4, in_index=0)
    variables = jax.jit(head.init)(jax.random.key(0), maps)
    rows = variance.Meter(head)(variables, [maps])[("bottleneck", "ppm")]
    assert {key: row["kind"] for key, row in rows.items()} == {"0_input": "encoder"} | {
        f"{i}_pool{scale}": "pooling" for i, scale in enumerate((1, 2, 3, 6), start=1)
    }
    assert rows["1_pool1"]["kept"] == 1  # a broadcast
    found = variance.shares(rows)
    assert sum(found.values()) == pytest.approx(1) and found["encoder"] > 0.8 and found["head"] == 0
