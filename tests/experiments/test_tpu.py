"""Programs for TPUs, compiled where there is none; the model of what chips exchange; the table."""

import pytest

from experiments import tpu
from experiments.collectives import Exchange

KEY = {
    "config": "shapes_aspp",
    "topology": "v5e:2x4",
    "program": "train",
    "images": 1,
    "crop": "",
    "model": 1,
    "fsdp": False,
}


def row(mode, **numbers):
    kinds = {"all-reduce": {"count": 40, "bytes": 2e6}, "all-gather": {"count": 2, "bytes": 1e6}}
    memory = {"arguments": 2**30, "temporaries": 2**30, "sum": 2**31}
    found = {"memory": memory, "flops": 1e12, "bytes": 2e9, "hbm": 1e9, "estimate": 0.01, "exchanges": kinds}
    found |= {"share": 0.5}
    return KEY | {"mode": mode, "compile_seconds": 9.0, "most_images": 15} | found | numbers


def test_an_exchange_takes_its_hops_and_its_bytes():
    reduced = Exchange("all-reduce", (45_000, 45_000))
    # 2x4: 1 + 3 hops, no torus, two axes; there and back
    assert tpu.exchange_seconds([reduced], "v5e:2x4") == pytest.approx(2 * (4e-6 + 1e-6))
    assert tpu.exchange_seconds([reduced] * 3, "v5e:16x16") == pytest.approx(6 * (16e-6 + 0.5e-6))
    gathered = Exchange("all-gather", (90_000,))
    assert tpu.exchange_seconds([gathered], "v5e:2x4") == pytest.approx(5e-6)


def test_the_table_has_ratios_to_the_network_without_equalizers():
    large = KEY | {"mode": "folded", "does_not_fit": "RESOURCE_EXHAUSTED: ...", "compile_seconds": 7.0}
    lines = tpu.table([row("none"), row("explicit", estimate=0.0102), large]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    explicit = dict(zip(cells[0], cells[3], strict=True))
    assert explicit["/ none"] == "1.0200" and explicit["all-reduces"] == "40" and explicit["others"] == "2"
    (unknown,) = tpu.table([row("none", estimate=None)]).splitlines()[2:]
    assert unknown.count("| - ") == 2
    assert cells[4][3:5] == ["folded", "more than 16"]


def test_a_network_is_compiled_for_eight_chips():
    pytest.importorskip("libtpu", reason="the TPU's compiler is not installed (requirements-tpu.txt)")
    found = tpu.measure(KEY | {"program": "evaluate", "mode": "explicit"})
    assert not found["exchanges"]  # every chip has its own images
    assert 0 < found["hbm"] < found["bytes"]  # maps stay on the chip
    assert found["roofline"] > 0 and 0 < found["memory"]["sum"] < 2**30
