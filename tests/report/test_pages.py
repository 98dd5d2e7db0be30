"""The report page: complete, self-contained, and still written where files are missing."""

import json
import re

import jinja2
import numpy as np
import pytest

from se_jax.report import charts, pages, rendering, results
from se_jax.report.runs import Run
from tests.report.parsed import Page

NAMES = ["ground", "disc", "a<b"]
HEADINGS = ["Training", "Classes", "Scale equalizer", "Validation images", "Masks", "Set-up", "Environment", "Config"]


def write_statistics(path, rows):
    (path / "equalizer.json").write_text(json.dumps({"mode": "explicit", "rows": rows}))


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
    write_statistics(path, [dict(zip(keys, row, strict=True)) for row in rows])
    config = {"seed": 7, "model": {"num_classes": 3, "decoder": {"name": "psp"}, "equalizer": {"mode": "explicit"}}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "parameters": 123}))
    samples = {"palette": rng.integers(0, 255, (3, 3), dtype=np.uint8), "names": np.array(NAMES)}
    for i in (0, 3):
        samples[f"image_{i}"] = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        samples[f"truth_{i}"] = rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30))
        samples[f"prediction_{i}"] = rng.integers(0, 3, (20, 30), dtype=np.uint8)
    np.savez(path / "samples.npz", **samples)
    segments = {key: samples[key] for key in ("palette", "names")} | {"image": samples["image_0"]}
    segments |= {"class_id": np.array([2, 0]), "score": np.array([0.876, 0.5], np.float32)}
    np.savez(path / "segments.npz", **segments, mask=rng.integers(0, 256, (2, 20, 30), dtype=np.uint8))
    return path


def test_page_shows_everything_and_loads_nothing(workdir):
    text = pages.write(workdir).read_text()
    page = Page(text)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert len(page.addresses) == 6 + 3  # two rows of image, truth, prediction; an image and two masks of it
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert page.tags.count("svg") == 3  # loss, mIoU, equalizer
    assert page.headings == HEADINGS
    for shown in ("70.62", "91.25", "a<b", "pool1", "0.02", "a<b 0.88", "ground 0.50", "versions.jax", "ignored"):
        assert shown in page.texts, shown
    assert page.texts.count("explicit") == 2  # in the tile, and in the config
    assert "psp head · 3 classes · seed 7" in page.texts


def test_warnings_and_means_over_fewer_classes_are_said(workdir):
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["acc"] = {"ground": 0.8, "disc": None, "a<b": None}
    (workdir / "metrics.json").write_text(json.dumps({**metrics, "warnings": ["no pixel of 1 of 3 classes: a<b"]}))
    text = " ".join(Page(pages.write(workdir).read_text()).texts)
    for shown in (
        "no pixel of 1 of 3 classes: a<b",
        "% mIoU, the mean of 2 of 3 classes",
        "accuracy of 1 of 3 classes",
    ):
        assert shown in text
    assert "mean of 2 of 3 classes" in text.replace("the mean of 2", "")  # the table's last row


@pytest.mark.parametrize(
    "missing, heading",
    [
        ("metrics.json", "Classes"),
        ("history.jsonl", "Training"),
        ("equalizer.json", "Scale equalizer"),
        ("samples.npz", "Validation images"),
        ("segments.npz", "Masks"),
        ("environment.json", "Environment"),
        ("config.json", "Config"),
    ],
)
def test_a_missing_file_leaves_out_its_part(workdir, missing, heading):
    (workdir / missing).unlink()
    page = Page(pages.write(workdir).read_text())
    assert page.headings == [other for other in HEADINGS if other != heading]
    tiles = missing != "metrics.json"  # the one section without a heading
    assert any("% mIoU" in text for text in page.texts) == tiles
    assert page.tags.count("section") == page.tags.count("h2") + tiles


def test_an_empty_workdir_gives_a_page_and_no_workdir_an_error(tmp_path):
    assert Page(pages.write(tmp_path).read_text()).headings == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pages.write(tmp_path / "nowhere")


def test_comparison_shows_both_runs_and_their_difference(workdir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["iou"]["disc"] = 0.625
    (other / "metrics.json").write_text(json.dumps(metrics))
    (other / "samples.npz").write_bytes((workdir / "samples.npz").read_bytes())
    path = pages.write_comparison({"plain": workdir, "equal": other}, tmp_path / "out" / "cmp.html", note="One.\nTwo.")
    page = Page(path.read_text())
    for shown in ("+12.50", "+0.00", "prediction, equal", "One.", "Two."):
        assert shown in page.texts, shown
    assert len(page.addresses) == 8 + 3  # two rows of image, truth, and the prediction of either run; masks of one


def test_what_differs_between_runs_is_marked(workdir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 8}))
    text = pages.write_comparison({"one": workdir, "two": other}, tmp_path / "both.html").read_text()
    config_table = text[text.index("<summary>Config") :]
    marked = re.findall(r'<tr class="differs">\s*<th>([^<]+)</th><td>([^<]+)</td><td>([^<]+)</td>', config_table)
    assert marked == [("seed", "7", "8")] and config_table.count("<tr>\n<th>") == 3


def test_names_are_escaped_wherever_they_stand(workdir, tmp_path):
    nasty = """<script src="x">'&"""
    metrics = json.loads((workdir / "metrics.json").read_text())
    (workdir / "metrics.json").write_text(json.dumps(metrics | {"iou": {nasty: 0.5}, "equalizer": nasty}))
    (workdir / "config.json").write_text(json.dumps({nasty: nasty}))
    write_statistics(workdir, [{"site": nasty, "branch": nasty, "mean": 0.0, "std": 1.0}])
    runs, path = {nasty: workdir, "other": workdir}, tmp_path / "page.html"
    page = Page(pages.write_comparison(runs, path, title=nasty, note=nasty).read_text())
    assert "script" not in page.tags and all(address.startswith("data:image/") for address in page.addresses)
    # title, headline, note; tile, mode in two tiles; key, class; site and branch in chart and table; masks; set-up
    assert page.texts.count(nasty) == 3 + 3 + 2 + 4 + 1 + 5


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="lacking"):
        rendering.environment.from_string("{{ lacking }}").render()


def test_a_resumed_run_keeps_the_last_value_of_a_step(workdir):
    with open(workdir / "history.jsonl", "a") as file:
        file.write(json.dumps({"step": 40, "loss": 9.0}) + "\n")
    steps, values = Run.read("run", workdir).curve("loss")
    assert steps == list(range(1, 41)) and values[-1] == 9.0


def test_channel_statistics_are_averaged(workdir):
    write_statistics(workdir, [{"site": "ppm", "branch": "in", "mean": [0.0, 1.0], "std": [1.0, 4.0], "ratio": 0.75}])
    page = Page(pages.write(workdir).read_text())
    assert "per channel" in page.text
    row = page.texts[len(page.texts) - page.texts[::-1].index("in") :]
    assert row[:3] == ["0.5", "2.5", "0.750"]


def test_long_curves_are_thinned_to_means_of_neighbours(workdir):
    history = [{"step": k, "loss": float(k % 2)} for k in range(1, 801)]
    (workdir / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    (_, loss), _ = results.curves([Run.read("run", workdir)])
    means = charts.lines([("run", 0, range(2, 801, 2), [0.5] * 400)], x_label="step", y_label="loss")
    assert loss == means
