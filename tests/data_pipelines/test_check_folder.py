"""The check of a user's own folder: every file, what the ids mean, and images that are in both splits."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines import check
from tests.data_pipelines.conftest import write_folder


@pytest.fixture
def own(tmp_path):
    """Three images a split, all different, two classes."""
    root = write_folder(tmp_path / "set", [(20, 30), (24, 18), (20, 30)], ("ground", "thing"))
    for k, path in enumerate(sorted((root / "images").rglob("*.png"))):
        image = np.array(Image.open(path))
        image[0, 0] = k
        Image.fromarray(image).save(path)
    return root


def run(capsys, *options):
    status = check.main(["--dataset=folder", *map(str, options)])
    return status, capsys.readouterr().out


def test_counts_sizes_ids_and_classes(own, capsys):
    status, out = run(capsys, f"--source={own}")
    assert status == 0 and "no problem found" in out, out
    assert "2 classes; file ids mean\n      0  ground\n      1  thing\n    255  (ignored)" in out
    assert "train: 3 images with annotations\n    sizes 30x20 (2), 18x24 (1); PNG images, masks of ids (3)" in out
    assert "    ids 0-1, 255\n" in out
    lines = [line.split() for line in out.splitlines()]
    (row,) = [line for line in lines if line[0] == "thing" and len(line) == 5]
    assert row[2] == row[4] == "3" and row[1] == row[3] and 25 < float(row[1]) < 25.1


def test_one_image_in_both_splits_is_found_by_its_pixels(own, capsys):
    """Under another name, in another file format."""
    Image.open(own / "images/train/im1.png").save(own / "images/val/im1.png", compress_level=0)
    status, out = run(capsys, f"--source={own}")
    assert status == 1 and "PROBLEM 1 images are both in train and in val, for example " in out
    assert "images/train/im1.png and " in out and "1 problem found" in out
    shutil.copy(own / "images/val/im0.png", own / "images/val/im2.png")
    assert "val: 1 images are there more than once" in run(capsys, f"--source={own}")[1]


def test_everything_wrong_is_named_and_the_rest_still_looked_at(own, capsys):
    (own / "images/train/im0.png").write_bytes(b"x")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(own / "annotations/train/im1.png")
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(own / "annotations/val/im0.png")
    status, out = run(capsys, f"--source={own}")
    assert status == 1
    for words in ("im0.png: the image cannot be decoded", "the annotation is 5x5, its image 18x24", "holds ids 9 that"):
        assert words in out
    (own / "annotations/val/im2.png").unlink()
    (own / "classes.json").write_text('{"classes": ["a", "b"], "ids": [0, 0]}')
    status, out = run(capsys, f"--source={own}")
    assert "PROBLEM val: 1 of 3 image files have no annotation" in out and "contradicts itself" in out


def test_masks_that_cannot_be_learned_from(own, capsys):
    for path in (own / "annotations").rglob("*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)
    status, out = run(capsys, f"--source={own}")
    assert status == 1 and "PROBLEM" in out and 'write in classes.json: "ids": [0, 255]' in out


def test_other_names_and_bounds(own, capsys):
    (own / "images").rename(own / "pictures")
    (own / "annotations").rename(own / "masks")
    for kind in ("pictures", "masks"):
        (own / kind / "val").rename(own / kind / "test")
    options = [f"--source={own}", "--image_dir=pictures", "--label_dir=masks", "--val_split=test"]
    assert run(capsys, *options)[0] == 0
    status, out = run(capsys, *options, "--max_pixels=500")
    assert status == 1 and "expected at most data.max_pixels=500" in out
    assert run(capsys, f"--source={own / 'nowhere'}")[0] == 1
