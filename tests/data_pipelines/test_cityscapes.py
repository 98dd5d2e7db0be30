import numpy as np
import pytest

import data_pipelines
from data_pipelines import cityscapes
from data_pipelines.labels import IGNORE, UNKNOWN, DataError, LabelError
from data_pipelines.sources import read_example
from tests.data_pipelines.trees import write_cityscapes, write_mask


def test_labels():
    assert len(cityscapes.NAMES) == 19 and cityscapes.NAMES[::18] == ("road", "bicycle")
    table = cityscapes.LABELS.table
    assert table[list(cityscapes.IDS)].tolist() == list(range(19))
    assert (table[:34] == IGNORE).sum() == 15 and (table[34:] == UNKNOWN).all()
    table = cityscapes.LABELS_TRAIN_IDS.table
    assert table[:19].tolist() == list(range(19)) and table[255] == IGNORE and (table[19:255] == UNKNOWN).all()


@pytest.mark.parametrize("kinds", [("labelIds",), ("labelTrainIds",), ("labelIds", "labelTrainIds")])
def test_both_kinds_of_annotations_give_the_same_labels(tmp_path, kinds):
    root = write_cityscapes(tmp_path, kinds)
    for directory in (root, tmp_path):
        (train, val), labels = cityscapes.DATASET.open(directory, ("train", "val"))
        assert (len(train), len(val)) == (3, 3)
    assert all(path.endswith(f"_gtFine_{kinds[-1]}.png") for _, path in train.pairs)
    assert [path.rsplit("/", 2)[1] for path, _ in train.pairs] == ["a", "a", "b"]
    image, label = read_example(train, labels, 2)
    assert image.shape == (12, 16, 3)
    assert label[0, ::4].tolist() == [255, 0, 10, 18]


def test_train_ids_count_only_where_every_split_has_them(tmp_path):
    root = write_cityscapes(tmp_path, ("labelIds", "labelTrainIds"))
    (root / "gtFine" / "val" / "b" / "b_000000_000019_gtFine_labelTrainIds.png").unlink()
    sources, labels = cityscapes.DATASET.open(root, ("train", "val"))
    assert labels is cityscapes.LABELS
    assert all(path.endswith("_gtFine_labelIds.png") for source in sources for _, path in source.pairs)
    assert cityscapes.DATASET.open(root, ["train"])[1] is cityscapes.LABELS_TRAIN_IDS


@pytest.mark.parametrize(
    "missing, count",
    [
        ("gtFine/train/a/a_000001_000019_gtFine_labelIds.png", "1 of 3 files gtFine/train/CITY"),
        ("leftImg8bit/val/b/b_000000_000019_leftImg8bit.png", "1 of 3 files leftImg8bit/val/CITY"),
    ],
)
def test_missing_files_are_named(tmp_path, missing, count):
    root = write_cityscapes(tmp_path)
    (root / missing).unlink()
    with pytest.raises(DataError, match=rf"{count}.*are missing, for example {root / missing}. Cityscapes is left"):
        cityscapes.DATASET.open(root, ("train", "val"))


def test_a_split_without_annotations_or_images(tmp_path):
    root = write_cityscapes(tmp_path, splits=("train", "test"))
    (root / "gtFine" / "test").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"3 of 3 files gtFine/test/CITY/\*_gtFine_labelIds.png are missing"):
        cityscapes.DATASET.open(root, ["test"])
    (root / "leftImg8bit" / "val").mkdir()
    with pytest.raises(DataError, match=r"leftImg8bit/val holds no CITY/\*_leftImg8bit.png"):
        cityscapes.DATASET.open(root, ["val"])


def test_train_ids_under_the_name_of_label_ids(tmp_path):
    path = write_cityscapes(tmp_path) / "gtFine" / "train" / "b" / "b_000000_000019_gtFine_labelIds.png"
    write_mask(path, [255, 0, 10, 18])
    (source,), labels = cityscapes.DATASET.open(tmp_path, ["train"])
    with pytest.raises(LabelError, match=rf"{path}: .* ids 255 .* is a labelTrainIds file under a wrong name"):
        data_pipelines.count_pixels(source, labels)


def test_label_ids_under_the_name_of_train_ids(tmp_path):
    root = write_cityscapes(tmp_path, ["labelTrainIds"])
    path = root / "gtFine" / "train" / "a" / "a_000000_000019_gtFine_labelTrainIds.png"
    write_mask(path, [1, 7, 23, 33])
    (source,), labels = cityscapes.DATASET.open(root, ["train"])
    with pytest.raises(LabelError, match=rf"{path}: .* ids 23, 33 .* is a labelIds file under a wrong name"):
        data_pipelines.count_pixels(source, labels)


def test_real_files(shared_data):
    (train, val), labels = cityscapes.DATASET.open(shared_data("cityscapes_mini"), ("train", "val"))
    assert (len(train), len(val)) == (6, 3)
    image, label = read_example(val, labels, 2)
    assert image.shape == (1024, 2048, 3) and val.pairs[2][0].endswith("frankfurt_000000_000576_leftImg8bit.png")
    assert {0, 2, 255} <= set(np.unique(label).tolist()) <= {*range(19), 255}
