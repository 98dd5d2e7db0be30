"""The report page: complete, self-contained, and still written where files are missing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from se_jax.report import charts as svg
from se_jax.report import pages as report

NAMES = ["ground", "disc", "a<b"]


class Page(HTMLParser):
    """Collects tags, addresses and text, and checks that the tags are closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def workdir(tmp_path):
    """A workdir with everything a run leaves."""
    rng = np.random.default_rng(0)
    path = tmp_path / "run"
    path.mkdir()
    iou = {"ground": 0.9125, "disc": 0.5, "a<b": None}
    metrics = {"step": 40, "images": 160, "miou": 0.70625, "macc": 0.8, "aacc": 0.9, "iou": iou, "acc": iou}
    (path / "metrics.json").write_text(json.dumps({**metrics, "equalizer": "explicit"}))
    history = [{"step": k, "loss": 2 / k, "learning_rate": 0.01} for k in range(1, 41)]
    history += [{"step": k, "miou": k / 50} for k in (20, 40)]
    (path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    rows = [("ppm", "pool1", 0.3, 0.02, 0.01), ("ppm", "input", 0.4, 2.0, 1.0)]
    keys = ("site", "branch", "mean", "std", "ratio")
    (path / "equalizer.json").write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    config = {"seed": 7, "model": {"num_classes": 3, "decoder": {"name": "psp"}, "equalizer": {"mode": "explicit"}}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "parameters": 123}))
    samples = {"palette": rng.integers(0, 255, (3, 3), dtype=np.uint8), "names": np.array(NAMES)}
    for i in (0, 3):
        samples[f"image_{i}"] = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        samples[f"truth_{i}"] = rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30))
        samples[f"prediction_{i}"] = rng.integers(0, 3, (20, 30), dtype=np.uint8)
    np.savez(path / "samples.npz", **samples)
    return path


def test_page_shows_everything_and_loads_nothing(workdir):
    text = report.write(workdir).read_text()
    page = Page(text)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert len(page.addresses) == 6  # two rows of image, truth, prediction
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert page.tags.count("svg") == 3  # loss, mIoU, equalizer
    for shown in (
        "70.62",
        "91.25",
        "a<b",
        "explicit",
        "pool1",
        "0.02",
        "psp head",
        "seed 7",
        "versions.jax",
        "ignored",
    ):
        assert shown in page.text


def test_warnings_and_means_over_fewer_classes_are_said(workdir):
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["acc"] = {"ground": 0.8, "disc": None, "a<b": None}
    (workdir / "metrics.json").write_text(json.dumps({**metrics, "warnings": ["no pixel of 1 of 3 classes: a<b"]}))
    text = Page(report.write(workdir).read_text()).text
    for shown in (
        "no pixel of 1 of 3 classes: a<b",
        "% mIoU, the mean of 2 of 3 classes",
        "accuracy of 1 of 3 classes",
    ):
        assert shown in text
    assert "mean of 2 of 3 classes" in text.replace("the mean of 2", "")  # the table's last row


@pytest.mark.parametrize(
    "missing", ["metrics.json", "history.jsonl", "equalizer.json", "samples.npz", "config.json", "environment.json"]
)
def test_a_missing_file_leaves_out_its_part(workdir, missing):
    (workdir / missing).unlink()
    Page(report.write(workdir).read_text())


def test_an_empty_workdir_gives_a_page_and_no_workdir_an_error(tmp_path):
    Page(report.write(tmp_path).read_text())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report.write(tmp_path / "nowhere")


def test_comparison_shows_both_runs_and_their_difference(workdir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["iou"]["disc"] = 0.625
    (other / "metrics.json").write_text(json.dumps(metrics))
    (other / "samples.npz").write_bytes((workdir / "samples.npz").read_bytes())
    path = report.write_comparison({"plain": workdir, "equal": other}, tmp_path / "out" / "cmp.html", note="One.\nTwo.")
    page = Page(path.read_text())
    assert "+12.50" in page.text and "prediction, equal" in page.text and "One." in page.text
    assert len(page.addresses) == 8


def test_a_resumed_run_keeps_the_last_value_of_a_step(workdir):
    with open(workdir / "history.jsonl", "a") as file:
        file.write(json.dumps({"step": 40, "loss": 9.0}) + "\n")
    steps, values = report.Run.read("run", workdir).curve("loss")
    assert steps == list(range(1, 41)) and values[-1] == 9.0


def test_channel_statistics_are_averaged(workdir):
    rows = [{"site": "ppm", "branch": "input", "mean": [0.0, 1.0], "std": [1.0, 3.0], "ratio": 1.0}]
    (workdir / "equalizer.json").write_text(json.dumps(rows))
    assert "per channel" in Page(report.write(workdir).read_text()).text


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0.0123), (3, 3), (0, 80_000), (0, 0)])
def test_ticks_are_few_and_cover_the_range(low, high):
    found = svg.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8


def test_line_chart_drops_what_is_not_finite():
    chart = svg.lines([("a", 0, [1, 2, 3], [1.0, float("nan"), 2.0])], x_label="x", y_label="y", marks=True)
    assert "nan" not in chart and chart.count("<circle") == 2
    assert "nothing" in svg.lines([("a", 0, [], [])], x_label="x", y_label="y")


def test_bars_are_logarithmic_only_where_values_differ_much():
    near, far = ([("site", [("a", 1.0), ("b", high)])] for high in (2.0, 200.0))
    assert "logarithmic" not in svg.bars(near, x_label="std") and "logarithmic" in svg.bars(far, x_label="std")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"/>', svg.bars(near, x_label="std"))]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
