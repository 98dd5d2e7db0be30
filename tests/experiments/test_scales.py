"""The measurement of scales and gradients on a tiny head."""

import numpy as np
import pytest

from experiments import comparison, features, scales
from tests.experiments.toy_encoder import tiny_config


def test_scales_and_gradients_before_training(tmp_path):
    config = tiny_config()
    pool = features.load(config, "train", tmp_path, images=8, epochs=2)
    found = scales.measure(config, pool, images=8, seed=0, steps=0)
    (site,) = found["sites"]
    assert [row["kind"] for row in found["sites"][site].values()] == ["encoder"] * 3
    assert sum(found["shares"][site].values()) == pytest.approx(1)
    rows = {(row["arm"], row["step"], row["branch"]): row for row in found["gradients"]}
    assert len(rows) == 3 * 3
    for key, row in found["sites"][site].items():
        std = {mode: rows[mode, 0, key]["std"] for mode in scales.MODES}
        np.testing.assert_allclose(list(std.values()), row["std_after"], rtol=1e-4)
        # what folding leaves of an explicit equalizer's gradient: |g_folded| = std |g_explicit|
        ratio = rows["folded", 0, key]["gradient"] / rows["explicit", 0, key]["gradient"]
        assert ratio == pytest.approx(row["std_after"], rel=0.2)  # calibration saw other images
        assert rows["explicit", 0, key]["predicted"] == pytest.approx(1, rel=0.2)
        assert rows["folded", 0, key]["weights"] == pytest.approx(
            rows["none", 0, key]["weights"] / std["none"], rel=0.2
        )
    assert "resize" in comparison.aligned([scales.SHARE_HEADS, *scales.share_rows(found)])
    page = scales.write(found, tmp_path / "page.html", "Tiny").read_text()
    assert "level2" in page and page.count("<svg") == 4
