import dataclasses

import numpy as np
import pytest

from data_pipelines import OFFICIAL, check, prepare
from tests.data_pipelines import trees
from tests.data_pipelines.test_official import WRITE


def run(capsys, dataset, source):
    """(exit status, what was printed)"""
    status = check.main([f"--dataset={dataset}", f"--source={source}"])
    return status, capsys.readouterr().out


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_part_is_said_to_be_one_and_is_no_error(name, tmp_path, capsys):
    WRITE[name](tmp_path)
    status, out = run(capsys, name, tmp_path)
    assert status == 0, out
    assert "no problem found" in out and f"Only a part of {OFFICIAL[name].title} is there" in out
    for split, count in OFFICIAL[name].sizes.items():
        assert f"of {count} images, a part" in out or split == "test"
    assert "decoded: 16x12 (" in out and "PROBLEM" not in out


def test_counts_ids_and_classes(tmp_path, capsys):
    trees.write_ade20k(tmp_path)
    status, out = run(capsys, "ade20k", tmp_path)
    assert status == 0
    assert "training: 3 of 20210 images, a part" in out and "validation: 2 of 2000 images, a part" in out
    assert "ids 0-3, 150; ignored 0: 25.0% of the pixels" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["149", "flag", "33.333%", "5"] in lines and ["2", "sky", "6.667%", "1"] in lines
    assert "not in the sample: floor, tree" in out


def test_a_whole_data_set_is_not_called_a_part(tmp_path, capsys):
    trees.write_ade20k(tmp_path)
    lines = []
    whole = dataclasses.replace(OFFICIAL["ade20k"], sizes={"training": 3, "validation": 2})
    assert check.check(whole, str(tmp_path), lines.append) == 0
    assert "training: 3 of 3 images" in lines and not any("part" in line for line in lines)
    less = dataclasses.replace(whole, sizes={"training": 2, "validation": 2})
    assert check.check(less, str(tmp_path), lines.append) == 1
    assert "PROBLEM training: 3 images, 1 more than the official 2" in lines


def test_what_is_missing_and_where_to_get_it(tmp_path, capsys):
    status, out = run(capsys, "cityscapes", tmp_path / "nowhere")
    assert status == 1 and "nowhere' does not hold Cityscapes" in out and "https://www.cityscapes-dataset.com" in out
    root = trees.write_cityscapes(tmp_path)
    status, out = run(capsys, "cityscapes", root)
    assert status == 0 and "\ntest: not there, officially 1525 images. Only predictions" in out
    (root / "leftImg8bit" / "val").rename(tmp_path / "val")
    status, out = run(capsys, "cityscapes", root)
    assert status == 1 and "PROBLEM val: not there, officially 500 images" in out


def test_voc_can_do_without_the_augmented_list(tmp_path, capsys):
    root = trees.write_voc2012(tmp_path)
    (root / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    status, out = run(capsys, "voc2012", root)
    assert status == 0 and "\ntrainaug: not there, officially 10582 images. The augmented list" in out
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    assert run(capsys, "voc2012", root)[0] == 1


@pytest.mark.parametrize(
    "break_file, expected",
    [
        (lambda path: path.unlink(), "PROBLEM val: 1 of 3 files gtFine/val"),
        (lambda path: path.write_bytes(b"x"), "the annotation cannot be decoded (1 bytes)"),
        (lambda path: trees.write_mask(path, [255, 0, 18]), "a labelTrainIds file under a wrong name"),
    ],
)
def test_wrong_files_are_named_and_the_rest_is_still_looked_at(break_file, expected, tmp_path, capsys):
    root = trees.write_cityscapes(tmp_path)
    path = root / "gtFine" / "val" / "a" / "a_000000_000019_gtFine_labelIds.png"
    break_file(path)
    status, out = run(capsys, "cityscapes", root)
    assert status == 1 and "1 problem found" in out
    assert expected in out and str(path) in out
    assert "train: 3 of 2975 images, a part" in out and "road" in out


def test_a_sample_is_spread_over_the_source(tmp_path):
    trees.write_ade20k(tmp_path, train=9)
    (source,), labels = OFFICIAL["ade20k"].open(tmp_path, ["training"])
    sample = check.take_sample(source, labels, 3)
    assert sample.count == 3 and sample.raw_ids == [0, 1, 5, 9, 150]
    assert sample.images[149] == 3 and not sample.problems
    assert np.sum(sample.pixels) == 3 * 12 * 12


@pytest.mark.parametrize(
    "name, size", [("ade20k", "7 of 20210"), ("voc2012", "10 of 10582"), ("cityscapes", "6 of 2975")]
)
def test_real_files(name, size, shared_data, capsys):
    status, out = run(capsys, name, shared_data(f"{name}_mini"))
    assert status == 0 and size in out, out


def test_shards_are_checked_as_files_are(tmp_path, capsys):
    trees.write_ade20k(tmp_path)
    prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    capsys.readouterr()
    status, files = run(capsys, "ade20k", tmp_path)
    shards_status, shards = run(capsys, "ade20k", tmp_path / "shards")
    assert (status, shards_status) == (0, 0)
    assert files.splitlines()[1:] == shards.splitlines()[1:] and shards.startswith(f"ADE20K in {tmp_path / 'shards'}\n")
    metadata = tmp_path / "shards/segmentation/ade20k/1.0.0/metadata.json"
    metadata.write_text(metadata.read_text()[:100])
    status, out = run(capsys, "ade20k", tmp_path / "shards")
    assert status == 1 and f"PROBLEM {metadata} cannot be read" in out and "Copy the directory again" in out
