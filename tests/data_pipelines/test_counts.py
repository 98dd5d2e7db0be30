"""Pixels of every class are counted before training; what cannot be learned is an error that says what to write."""

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import counts
from data_pipelines.counts import count_pixels
from data_pipelines.labels import DataError, LabelError, LabelSpec
from data_pipelines.sources import FolderSource
from tests.data_pipelines.conftest import write_folder

LABELS = LabelSpec.create(["ground", "thing", "other"])


def rewrite(folder, change, splits=("train", "val")):
    for split in splits:
        for path in (folder / "annotations" / split).glob("*.png"):
            Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)


def write_classes(folder, text):
    (folder / "classes.json").write_text(text)


@pytest.fixture
def binary(folder):
    """Masks of 0 and 1, no pixel ignored."""
    rewrite(folder, lambda ids: np.where(ids == 1, 1, 0))
    write_classes(folder, '{"classes": ["background", "object"]}')
    return folder


def test_counts_are_exact(folder):
    found = count_pixels(FolderSource(folder, "train"), LABELS)
    small, large = 3 * 20 * 30, 2 * 24 * 18
    assert found.pixels.tolist() == [3 * 449 + 2 * 323, (small + large) // 4, 0]
    assert found.ignored == 5 and found.images.tolist() == [5, 5, 0]
    assert (found.files, found.total) == (5, 5)
    assert np.flatnonzero(found.raw).tolist() == [0, 1, 255]


def test_a_class_without_a_pixel_is_warned_of_and_kept(folder_config):
    data = data_pipelines.build(folder_config)
    said = "(train): no pixel of 1 of 3 classes in all 5 annotations: other; nothing of that kind can be learned"
    assert said in data.warnings[0] and "(val)" in data.warnings[1]
    assert "Ignored ids are 255 (" in data.warnings[0] and data.warnings[0].endswith('"ids": [0, 1, 255]')
    assert len(data.warnings) == 2 and data.pixels["train"].absent == ["other"]
    text = counts.table(list(data.pixels.values()))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["pixels", "of", "train", "%", "files", "val", "%", "files"]
    assert ["other", "0", "0", "0", "0", "<-", "none"] in lines
    assert "counted: train: all 5 annotations; val: all 5 annotations" in text


def test_masks_of_0_and_255_with_two_classes_are_refused(binary, folder_config):
    """They used to train to a mIoU of 1.00 with every object pixel ignored."""
    rewrite(binary, lambda ids: ids * 255)
    with pytest.raises(DataError, match="hold one class only, 'background', beside .* ignored pixels") as caught:
        data_pipelines.build(folder_config)
    assert '"ids": [0, 255]' in str(caught.value) and "255 (25.0" in str(caught.value)
    write_classes(binary, '{"classes": ["background", "object"], "ids": [0, 255]}')
    data = data_pipelines.build(folder_config)
    assert data.pixels["train"].pixels.all() and not data.warnings


def test_nothing_but_ignored_pixels_is_refused(binary, folder_config):
    rewrite(binary, lambda ids: np.full_like(ids, 255))
    with pytest.raises(DataError, match=r"\(train\): the masks hold no pixel of any class, beside .* 255 \(100"):
        data_pipelines.build(folder_config)


def test_a_validation_split_without_labels_is_refused(binary, folder_config):
    rewrite(binary, lambda ids: np.full_like(ids, 255), ["val"])
    with pytest.raises(DataError, match=r"\(val\): the masks hold no pixel of any class .*nothing can be measured"):
        data_pipelines.build(folder_config)


@pytest.mark.parametrize("background", [0, 255])
def test_a_single_class_is_refused(binary, folder_config, background):
    write_classes(binary, '{"classes": ["object"]}')
    rewrite(binary, lambda ids: np.where(ids == 1, 0, background))
    with pytest.raises(
        DataError, match='(?s)one class only, .object.*name the background as a class too.*"background"'
    ):
        data_pipelines.build(folder_config)


def test_ids_beyond_a_single_class_are_explained(binary, folder_config):
    write_classes(binary, '{"classes": ["object"]}')
    with pytest.raises(
        LabelError, match=r'(?s)holds ids 1 that.*"classes": \["background", "object"\], "ids": \[0, 1\]'
    ):
        data_pipelines.build(folder_config)


def test_ids_from_1_are_explained_and_can_be_said(binary, folder_config):
    rewrite(binary, lambda ids: np.where(np.arange(ids.shape[1]) < 3, 0, ids + 1))
    with pytest.raises(LabelError, match=r"holds ids 2 that.*\nIn 5 masks of .*: 0 \(.*1 \(.*2 \(") as caught:
        data_pipelines.build(folder_config)
    assert '"ignore" lists ids without a class' in str(caught.value)
    assert 'If 0 means no data, write in classes.json: "ids": [1, 2], "ignore": [0].' in str(caught.value)
    write_classes(binary, '{"classes": ["background", "object"], "reduce_zero_label": true}')
    assert not data_pipelines.build(folder_config).warnings


def test_a_large_source_is_sampled_and_counted_whole_before_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "ALL", 5)
    monkeypatch.setattr(counts, "SAMPLE", 3)
    folder = write_folder(tmp_path / "set", [(8, 8)] * 9)
    source, asked = FolderSource(folder, "train"), []
    read = FolderSource.label_bytes
    monkeypatch.setattr(FolderSource, "label_bytes", lambda self, index: (asked.append(index), read(self, index))[1])
    found = count_pixels(source, LABELS)
    assert sorted(asked) == [0, 4, 8] and (found.files, found.total) == (3, 9) and found.looked_at == "3 of 9"
    rewrite(folder, lambda ids: np.zeros_like(ids))
    asked.clear()
    assert count_pixels(source, LABELS).files == 9 and len(asked) == 12


def test_an_unreadable_file_stops_the_count_or_is_left_to_the_pipeline(folder):
    (folder / "annotations" / "train" / "im0.png").write_bytes(b"")
    source = FolderSource(folder, "train")
    with pytest.raises(DataError, match="im0.png"):
        count_pixels(source, LABELS)
    assert count_pixels(source, LABELS, on_error="skip").files == 4


def test_progress_is_said_when_it_takes_long(capsys, monkeypatch):
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(counts.time, "monotonic", lambda: next(clock))
    assert list(counts.progress("abcd", 4, "set (train)")) == list("abcd")
    assert "counting pixels of set (train): 2 of 4 annotations" in capsys.readouterr().err


def test_palettes_made_file_by_file_are_seen_without_a_palette_in_classes_json(binary, folder_config):
    """The same colours under other ids: classes would be swapped in silence."""
    for k, path in enumerate(sorted((binary / "annotations" / "train").glob("*.png"))):
        ids = np.asarray(Image.open(path)) ^ (k % 2)
        mask = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
        colours = [0, 0, 0, 200, 0, 0]
        mask.putpalette(colours if k % 2 == 0 else colours[3:] + colours[:3])
        mask.save(path)
    with pytest.raises(
        DataError, match=r"im1.png: id 0 is \(200, 0, 0\) in this file's palette, but \(0, 0, 0\) in.*im0"
    ):
        data_pipelines.build(folder_config)
    write_classes(binary, '{"classes": ["a", "b"], "palette_in_files": "ignore"}')
    assert data_pipelines.build(folder_config)


def test_data_sets_of_others_are_counted_too(shapes_config):
    shapes_config.name = "tests.data_pipelines.test_counts:grounds_only"
    with pytest.raises(DataError, match="one class only, 'a'"):
        data_pipelines.build(shapes_config)


class _Flat(data_pipelines.Source):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return b"P6 2 2 255\n" + bytes(12), b"P5 2 2 255\n" + bytes(4), "x"

    def size(self, index):
        return 2, 2


def grounds_only(config):
    return data_pipelines.Data(_Flat("flat (train)"), _Flat("flat (val)"), LabelSpec.create(["a", "b"]))
