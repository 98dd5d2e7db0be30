import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import voc2012
from data_pipelines.labels import IGNORE, UNKNOWN, DataError, LabelError
from data_pipelines.sources import read_example
from tests.data_pipelines.trees import VOC_PALETTE, write_mask, write_voc2012


def test_labels():
    table = voc2012.LABELS.table
    assert len(voc2012.NAMES) == 21 and voc2012.NAMES[15] == "person" and voc2012.NAMES[20] == "tvmonitor"
    np.testing.assert_array_equal(table[:21], np.arange(21))
    assert (table[21:255] == UNKNOWN).all() and table[255] == IGNORE
    assert voc2012.LABELS.palette[[0, 1, 15, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]


def names(source):
    return [path.rsplit("/", 1)[1] for path, _ in source.pairs]


def test_splits_follow_the_lists(tmp_path):
    root = write_voc2012(tmp_path)
    for directory in (root, tmp_path, tmp_path / "VOCdevkit"):
        (train, val, augmented), labels = voc2012.DATASET.open(directory, ("train", "val", "trainaug"))
        assert names(train) == ["2007_a.jpg", "2007_b.jpg"] and names(val) == ["2007_c.jpg"]
    assert names(augmented) == ["2007_a.jpg", "2007_b.jpg", "2007_d.jpg"]
    image, label = read_example(val, labels, 0)
    assert image.shape == (12, 16, 3) and label[0, [0, 6, 12]].tolist() == [0, 3, 255]


def test_trainaug_takes_the_official_mask_where_there_is_one(tmp_path):
    write_voc2012(tmp_path)
    (source,), labels = voc2012.DATASET.open(tmp_path, ["trainaug"])
    found = [set(np.unique(read_example(source, labels, k)[1]).tolist()) for k in range(3)]
    assert found == [{0, 1, 255}, {0, 2, 255}, {0, 20}]


def test_without_the_augmented_list_or_masks_it_is_said_how_to_get_them(tmp_path):
    root = write_voc2012(tmp_path)
    (root / "SegmentationClassAug").rename(root / "elsewhere")
    with pytest.raises(
        DataError, match=r"SegmentationClassAug does not exist.*SBD.*voc_aug.py.*data.train_split=train"
    ):
        voc2012.DATASET.open(root, ["trainaug"])
    (root / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"no split 'trainaug'; there are: train, val .*SBD .*10582"):
        voc2012.DATASET.open(root, ["trainaug"])
    assert voc2012.DATASET.open(root, ["train", "val"])


@pytest.mark.parametrize(
    "split, missing",
    [
        ("train", "JPEGImages/2007_b.jpg"),
        ("train", "SegmentationClass/2007_b.png"),
        ("trainaug", "SegmentationClassAug/2007_d.png"),
    ],
)
def test_missing_files_are_named(tmp_path, split, missing):
    root = write_voc2012(tmp_path)
    (root / missing).unlink()
    with pytest.raises(DataError, match=rf"1 of . files listed in {root}/.*/{split}.txt are missing.*{root / missing}"):
        voc2012.DATASET.open(root, [split])


def test_an_empty_list(tmp_path):
    path = write_voc2012(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text("\n")
    with pytest.raises(DataError, match=f"{path} holds no names"):
        voc2012.DATASET.open(tmp_path, ["train"])


def test_a_mask_of_colours_is_named(tmp_path):
    path = write_voc2012(tmp_path) / "SegmentationClass" / "2007_a.png"
    every = list(range(21)) + [255]
    mask = np.resize(every, (12, 16)).astype(np.uint8)
    Image.fromarray(VOC_PALETTE.astype(np.uint8)[mask]).save(path)
    (source,), labels = voc2012.DATASET.open(tmp_path, ["train"])
    with pytest.raises(DataError, match=rf"{path}: the annotation has RGB pixels.*as they are published"):
        data_pipelines.count_pixels(source, labels)


def test_an_id_above_20_is_named(tmp_path):
    path = write_voc2012(tmp_path) / "SegmentationClass" / "2007_c.png"
    write_mask(path, [0, 21])
    (source,), labels = voc2012.DATASET.open(tmp_path, ["val"])
    with pytest.raises(LabelError, match=rf"{path}: the annotation holds ids 21 .*hold ids 0-20 and, on borders, 255"):
        read_example(source, labels, 0)


def test_real_files(shared_data):
    splits = ("train", "val", "trainval", "trainaug")
    sources, labels = voc2012.DATASET.open(shared_data("voc2012_mini"), splits)
    assert [len(source) for source in sources] == [3, 6, 9, 10]
    for source in sources:
        data_pipelines.count_pixels(source, labels)
    palette = Image.open(sources[0].pairs[0][1]).getpalette()
    assert palette[: 3 * 21] == labels.palette.ravel().tolist()


def test_the_official_numbers_are_those_of_the_lists(shared_data):
    lists = shared_data("voc2012_mini") / "lists_full"
    read = {name: set((lists / f"{name}.txt").read_text().split()) for name in ("train", "val", "train_aug")}
    assert voc2012.DATASET.sizes == {
        "train": len(read["train"]),
        "val": len(read["val"]),
        "trainaug": len(read["train_aug"]),
    }
    assert read["train"] < read["train_aug"] and not read["val"] & read["train_aug"]
