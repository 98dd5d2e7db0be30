"""The table of systems counts what is known of DeepLab's networks, and shares."""

import pytest

from experiments import systems


def test_dupsampling_beside_deeplab():
    """44.54 and 42.35 GMAC are an independent count's; the paper's decoders have 1.15 and 5.53 GFLOP with biases."""
    table = systems.dupsampling()[0]
    deeplab, ours = (systems.count(table.rows[i], table.size) for i in (0, 2))
    assert round(deeplab["whole"], 2) == 44.54
    assert ours["whole"] == pytest.approx(42.35, abs=0.015)
    assert 2 * deeplab["decoder"] == pytest.approx(5.53, abs=0.02)
    assert 2 * ours["decoder"] == pytest.approx(1.15, abs=0.03)


# parameters in millions and GMAC of an independent count of the published code: plain, with windows a, with windows b
MASK2FORMER = {
    "Mask2Former on ResNet-50, ADE20K": ((44.04, 66.8), (47.48, 62.0), (49.91, 83.8)),
    "Mask2Former on Swin-T, ADE20K": ((47.44, 69.7), (49.76, 64.3), (53.34, 87.2)),
    "Mask2Former on ResNet-50, Cityscapes": ((44.01, 132.05),),
}


def test_mask2former_is_as_large_as_the_published_code():
    """To the digit; ~10 G more for the windows, as an abstract says, is neither variant's."""
    tables = {table.title: table for table in systems.mask2former()}
    for title, expected in MASK2FORMER.items():
        for row, (millions, gmac) in zip(tables[title].rows, expected, strict=False):
            found = systems.count(row, tables[title].size)
            assert abs(found["whole"] - gmac) <= 0.05, (title, row.name)
            assert round(found["parameters"], 2) == millions, (title, row.name)


def test_eomt_is_as_large_as_the_authors():
    """Parameters in millions, and GMAC of a window: an independent count of the authors' code."""
    tables = {table.title: table for table in systems.eomt()}
    for title, (millions, gmac) in {
        "EoMT on DINOv2 small, 150 classes": (23.72, 36.7),
        "EoMT on DINOv2 large, 150 classes": (316.02, 394.1),
    }.items():
        found = systems.count(tables[title].rows[0], tables[title].size)
        assert found["parameters"] == pytest.approx(millions, abs=0.02), title
        assert found["whole"] == pytest.approx(gmac, rel=0.001), title


def test_shares_are_of_the_first_network(monkeypatch):
    found = iter(({"parameters": 2.0, "whole": 10.0}, {"parameters": 1.0, "whole": 4.0}))
    monkeypatch.setattr(systems, "count", lambda row, size: next(found))
    lines = []
    systems.show(systems.Table("Small", (8, 16), [systems.Row("a", None), systems.Row("b", None)]), lines.append)
    assert lines[0] == "\nSmall, 8x16\n"
    assert lines[2:] == ["| a | 2.00 (100.0%) | 10.00 (100.0%) |", "| b | 1.00 (50.0%) | 4.00 (40.0%) |"]


def test_an_unknown_system_is_named(capsys):
    with pytest.raises(SystemExit):
        systems.main(["--only=unet"])
    assert "names unet; expected some of dupsampling" in capsys.readouterr().err
