"""The report's sections on mistakes: the right pairs, where borders differ."""

import json

import numpy as np
import pytest

from se_jax.report import errors, pages
from tests.report.parsed import Page

NAMES = ["sky", "road", "a<b", "nowhere"]
CONFUSION = np.array([[90, 10, 0, 0], [5, 15, 0, 0], [300, 0, 700, 0], [0, 0, 0, 0]])
PALETTE = np.array([[9, 9, 200], [100, 100, 100], [200, 9, 9], [9, 200, 9]], np.uint8)


@pytest.fixture
def evaluated(tmp_path):
    """A workdir with what an evaluation leaves."""
    truth = np.zeros((40, 80), np.uint8)
    truth[10:20, 20:40], truth[:, 70:] = 1, 255
    arrays = {"image_3": np.full((40, 80, 3), 100, np.uint8), "truth_3": truth, "prediction_3": np.zeros_like(truth)}
    entry = {"image": "three.png", "index": 3, "iou": 0.0, "wrong": 200}
    other = {"image": "one.png", "index": 1, "iou": 0.25, "wrong": 9}
    result = {
        "miou": 0.5,
        "images": 4,
        "checkpoint": "last",
        "iou": {"sky": 0.9, "road": 0.1, "a<b": 0.5, "nowhere": None},
        "protocol": {"mode": "slide", "window": [64, 32], "stride": [43, 21], "tta": True},
        "data_set": {"val_split": "test2"},
        "worst": {"sky": [other], "road": [entry, other], "a<b": [], "nowhere": []},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    np.savez(tmp_path / "evaluation_confusion.npz", confusion=CONFUSION, names=NAMES, palette=PALETTE)
    np.savez(tmp_path / "evaluation_worst.npz", names=NAMES, palette=PALETTE, **arrays)
    return tmp_path


def test_the_page_of_an_evaluation(evaluated):
    path = pages.write_evaluation(evaluated)
    assert path.name == "evaluation.html" and not (evaluated / "report.html").exists()
    page = Page(path.read_text())
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert len(page.addresses) == 1 + 4  # the matrix; image, truth, prediction and border of the one image that is kept
    assert page.headings == ["Classes", "Confusion matrix", "Worst images", "Worst images of every class"]
    for words in ("last", "Most confused", "30.0", "0.0 % IoU, 200 wrong pixels in three.png", "one.png", "25.0"):
        assert words in page.texts, words
    assert page.texts.count("three.png") == 1  # in the table, as road's worst
    how = "On the split test2: every image once, by windows of 64x32 (height x width) every 43x21, mean of twelve views"
    assert f"{how} (six scales, plain and mirrored)." in page.texts


@pytest.mark.parametrize(
    "missing, headings, pictures",
    [
        ("evaluation.json", ["Confusion matrix"], 1),
        ("evaluation_confusion.npz", ["Classes", "Worst images", "Worst images of every class"], 4),
        # the images are named all the same
        ("evaluation_worst.npz", ["Classes", "Confusion matrix", "Worst images", "Worst images of every class"], 1),
    ],
)
def test_a_missing_file_leaves_out_its_part(evaluated, missing, headings, pictures):
    (evaluated / missing).unlink()
    page = Page(pages.write_evaluation(evaluated).read_text())
    assert page.headings == headings and len(page.addresses) == pictures
    assert ("both borders" in page.texts) == (pictures == 4)


def test_a_comparison_shows_the_matrix_of_every_run_and_no_images(evaluated):
    for name in ("confusion.npz", "worst.npz"):
        (evaluated / name).write_bytes((evaluated / f"evaluation_{name}").read_bytes())
    (evaluated / "metrics.json").write_bytes((evaluated / "evaluation.json").read_bytes())
    path = pages.write_comparison({"one": evaluated, "two": evaluated}, evaluated / "both.html")
    page = Page(path.read_text())
    assert page.tags.count("image") == 2 and "Worst images" not in page.text


def test_pairs_are_those_with_the_largest_share_of_the_label():
    assert errors.pairs(CONFUSION) == [(2, 0, 0.3), (1, 0, 0.25), (0, 1, 0.1)]
    assert errors.pairs(CONFUSION, count=1) == [(2, 0, 0.3)]
    assert errors.pairs(np.eye(3, dtype=np.int64)) == []


def test_shares_of_an_empty_row_are_unknown():
    found = errors.shares(CONFUSION)
    np.testing.assert_allclose(found[:3].sum(1), 1)
    assert np.isnan(found[3]).all()


def test_the_border_of_label_and_prediction_and_what_differs_is_seen():
    truth, prediction = np.zeros((420, 420), np.uint8), np.zeros((420, 420), np.uint8)
    truth[:, :210], prediction[:, :110] = 1, 1
    prediction[:100, 400:] = 1
    truth[:100, 380:] = 255
    image = np.full((420, 420, 3), 100, np.uint8)
    picture = errors.disagreement(image, truth, prediction, k=1).astype(int)
    assert picture.shape == (420, 420, 3)
    assert tuple(picture[200, 209]) == tuple(picture[200, 210]) == errors.LABEL
    assert tuple(picture[200, 109]) == tuple(picture[200, 110]) == errors.PREDICTION
    grey = picture[200, 50]
    assert np.ptp(grey) == 0
    missed = picture[200, 150]
    assert missed[0] > missed[2]  # towards the label's colour
    assert np.ptp(picture[50, 410]) == 0  # nobody knows what is there
    swapped = errors.disagreement(image, prediction, truth, k=1).astype(int)
    assert swapped[200, 150, 0] < swapped[200, 150, 2]
    same = errors.disagreement(image, truth, truth, k=1)
    assert tuple(same[200, 209]) == errors.BOTH


def test_a_small_spot_is_enlarged():
    truth = np.zeros((100, 200), np.uint8)
    truth[50:52, 100:103] = 1
    picture = errors.disagreement(np.zeros((100, 200, 3), np.uint8), truth, np.zeros_like(truth), k=1)
    assert picture.shape == (210, 420, 3)
    tinted = (np.ptp(picture.astype(int), axis=2) > 0).sum()
    assert tinted > 6 * 8**2  # a pixel became 8 x 8
