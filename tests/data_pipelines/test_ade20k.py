import csv

import numpy as np
import pytest
import scipy.io

import data_pipelines
from data_pipelines import ade20k
from data_pipelines.labels import IGNORE, UNKNOWN, DataError, LabelError
from data_pipelines.sources import read_example
from tests.data_pipelines.trees import write_ade20k, write_mask


def test_labels():
    table = ade20k.LABELS.table
    assert len(ade20k.NAMES) == 150 and ade20k.NAMES[::149] == ("wall", "flag")
    assert table[0] == IGNORE and (table[151:] == UNKNOWN).all()
    np.testing.assert_array_equal(table[1:151], np.arange(150))
    assert ade20k.LABELS.palette[[0, 12, 149]].tolist() == [[120, 120, 120], [150, 5, 61], [92, 0, 255]]


def test_read(tmp_path):
    root = write_ade20k(tmp_path)
    for directory in (root, tmp_path):
        (train, val), labels = ade20k.DATASET.open(directory, ("training", "validation"))
        assert (len(train), len(val)) == (3, 2)
    image, label = read_example(train, labels, 2)
    assert image.shape == (12, 16, 3)
    assert label[0, ::4].tolist() == [255, 0, 2, 149]
    assert train[2][2].endswith("images/training/ADE_train_00000003.jpg")


def test_id_above_150_is_named(tmp_path):
    path = write_ade20k(tmp_path) / "annotations" / "training" / "ADE_train_00000002.png"
    write_mask(path, [0, 1, 151, 200])
    (source,), labels = ade20k.DATASET.open(tmp_path, ["training"])
    message = rf"{path}: the annotation holds ids 151, 200 .*ids allowed: 0-150 .*not labelled\) and 1-150.*ade/ADEC"
    with pytest.raises(LabelError, match=message.replace("ade/", "ADEchallenge/")):
        data_pipelines.count_pixels(source, labels)


def test_missing_files_are_named(tmp_path):
    root = write_ade20k(tmp_path)
    (root / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 image files have no annotation .*ADE_train_00000002.jpg"):
        ade20k.DATASET.open(root, ["training"])
    (root / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 annotation files have no image .*ADE_val_00000001.png"):
        ade20k.DATASET.open(root, ["validation"])


def test_images_without_annotations(tmp_path):
    root = write_ade20k(tmp_path)
    (root / "annotations").rename(root / "labels")
    with pytest.raises(DataError, match=r"annotations/training does not exist. ADE20K is http"):
        ade20k.DATASET.open(root, ["training"])


def test_names_and_colours_are_the_published_ones(shared_data):
    with open(shared_data("ade20k_mini") / "objectInfo150.csv") as file:
        published = [row["Name"].replace(";", " ") for row in csv.DictReader(file)]
    for name, words in zip(ade20k.NAMES, published, strict=True):
        assert name in words and name.startswith(words.split()[0])
    colours = scipy.io.loadmat(shared_data("ade20k_mini") / "color150.mat")["colors"]
    np.testing.assert_array_equal(ade20k.PALETTE, colours)


def test_real_files(shared_data):
    (train, val), labels = ade20k.DATASET.open(shared_data("ade20k_mini"), ("training", "validation"))
    assert (len(train), len(val)) == (7, 9)
    _, label = read_example(val, labels, 0)
    assert label.shape == (512, 683)
    for source in (train, val):
        data_pipelines.count_pixels(source, labels)
