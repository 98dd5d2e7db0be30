"""What holds for every published data set."""

import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

import data_pipelines
from data_pipelines import OFFICIAL, prepare
from data_pipelines.labels import DataError
from se_jax.config import options
from tests.data_pipelines import trees

WRITE = {
    "ade20k": trees.write_ade20k,
    "voc2012": trees.write_voc2012,
    "cityscapes": trees.write_cityscapes,
    "pascal_context": trees.write_pascal_context,
    "pascal_context_60": trees.write_pascal_context,
}


def make_config(name, directory, **changes):
    config = options.get_config().data
    config.update(name=name, dir=str(directory), batch_size=2, crop=(8, 8), scale=(16, 12), **changes)
    return config


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_usual_splits_by_default_and_batches_of_them(name, tmp_path):
    WRITE[name](tmp_path)
    config = make_config(name, tmp_path)
    data = data_pipelines.build(config)
    dataset = OFFICIAL[name]
    assert data.train.name.endswith(f"({dataset.train_split})") and data.val.name.endswith(f"({dataset.val_split})")
    batch = next(data_pipelines.train_batches(data, config, seed=0, start_step=0))
    assert batch["image"].shape == (2, 8, 8, 3)
    assert set(np.unique(batch["label"]).tolist()) <= {*range(data.labels.num_classes), 255}
    batch = next(data_pipelines.eval_batches(data.val, data.labels, 1))
    assert batch["image"].shape == (1, 12, 16, 3) and batch["valid"].all()


@pytest.mark.parametrize("name", OFFICIAL)
def test_splits_can_be_chosen(name, tmp_path):
    WRITE[name](tmp_path)
    val = OFFICIAL[name].val_split
    data = data_pipelines.build(make_config(name, tmp_path, train_split=val, val_split=val))
    assert data.train.pairs == data.val.pairs


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_wrong_split_name_is_answered_with_those_that_exist(name, tmp_path):
    WRITE[name](tmp_path)
    usual = OFFICIAL[name].val_split
    with pytest.raises(DataError, match=rf"has no split 'valid'; there are: .*{usual}.*data.train_split"):
        data_pipelines.build(make_config(name, tmp_path, train_split="valid"))


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_missing_data_set_is_answered_with_where_to_get_it(name, tmp_path):
    title = OFFICIAL[name].title
    with pytest.raises(DataError, match=rf"{tmp_path}' does not hold {title}: no .*/ in it, nor in .*https?://"):
        data_pipelines.build(make_config(name, tmp_path))
    with pytest.raises(DataError, match=rf"data.dir is empty.*{title} is .*https?://"):
        data_pipelines.build(make_config(name, ""))
    with pytest.raises(DataError, match=r"data.dir='.*/nowhere' is not a directory.*https?://"):
        data_pipelines.build(make_config(name, tmp_path / "nowhere"))


@pytest.mark.parametrize("name", OFFICIAL)
def test_images_alone_are_those_of_the_split_and_need_no_annotations(name, tmp_path):
    root = WRITE[name](tmp_path)
    dataset = OFFICIAL[name]
    (labelled,), specified = dataset.open(tmp_path, [dataset.val_split])
    for folder in ("annotations", "gtFine", "SegmentationClass", "SegmentationClassContext"):
        shutil.rmtree(root / folder, ignore_errors=True)
    source, labels = data_pipelines.open_images(make_config(name, tmp_path))
    assert [source.image_name(k) for k in range(len(source))] == [image for image, _ in labelled.pairs]
    assert labels.names == specified.names
    assert source.size(0) == (12, 16)
    batches = list(data_pipelines.eval_batches(source, labels, 1))
    assert len(batches) == len(source) and all((batch["label"] == 255).all() for batch in batches)
    np.testing.assert_array_equal(
        np.concatenate([batch["image"] for batch in batches])[0],
        np.asarray(PIL.Image.open(labelled.pairs[0][0]).convert("RGB")),
    )


def test_images_alone_of_a_folder_and_what_cannot_be(tmp_path):
    trees.write_image(tmp_path / "images" / "test" / "b.png")
    trees.write_image(tmp_path / "images" / "test" / "a.png")
    (tmp_path / "classes.json").write_text('{"classes": ["road", "sky"]}')
    source, labels = data_pipelines.open_images(make_config("folder", tmp_path, val_split="test"))
    assert [os.path.basename(source.image_name(k)) for k in range(2)] == ["a.png", "b.png"]
    assert labels.names == ("road", "sky")
    with pytest.raises(DataError, match=r"images/val does not exist"):
        data_pipelines.open_images(make_config("folder", tmp_path))
    with pytest.raises(DataError, match=r"generated pictures are no files"):
        data_pipelines.open_images(make_config("shapes", tmp_path))
    trees.write_ade20k(tmp_path / "ade")
    with pytest.raises(DataError, match=r"no split 'testing'; there are: training, validation.*release_test.zip"):
        data_pipelines.open_images(make_config("ade20k", tmp_path / "ade", val_split="testing"))


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("which", [0, 1])
def test_a_corrupt_file_is_named(name, which, tmp_path):
    WRITE[name](tmp_path)
    dataset = OFFICIAL[name]
    (source,), labels = dataset.open(tmp_path, [dataset.val_split])
    path = source.pairs[0][which]
    with open(path, "r+b") as file:
        file.truncate(50)
    with pytest.raises(DataError, match=rf"{path}: the (image|annotation) cannot be decoded \(50 bytes\)"):
        data_pipelines.read_example(source, labels, 0)


def write_colours(path, _):
    PIL.Image.new("RGB", (trees.WIDTH, trees.HEIGHT), (128, 0, 0)).save(path)


@pytest.mark.parametrize(
    "name, write, ids, message",
    [
        ("ade20k", trees.write_mask, [0, 151], "holds ids 151 "),
        ("voc2012", write_colours, None, "has RGB pixels; expected one 8-bit channel"),
        ("voc2012", trees.write_mask, [0, 21], "holds ids 21 "),
        ("cityscapes", trees.write_mask, [255, 0, 18], "is a labelTrainIds file under a wrong name"),
        ("pascal_context", trees.write_mask, [0, 60], "holds ids 60 "),
        ("pascal_context_60", trees.write_mask, [0, 60], "holds ids 60 "),
    ],
)
def test_a_wrong_annotation_stops_a_run_before_it_starts_and_the_writing_of_shards(name, write, ids, message, tmp_path):
    WRITE[name](tmp_path)
    dataset = OFFICIAL[name]
    (source,), _ = dataset.open(tmp_path, [dataset.train_split])
    path = source.pairs[-1][1]
    write(pathlib.Path(path), ids)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        data_pipelines.build(make_config(name, tmp_path))
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        prepare.prepare(name, tmp_path, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("name", OFFICIAL)
def test_nothing_is_written_into_the_data_directory(name, tmp_path):
    root = WRITE[name](tmp_path)
    config = make_config(name, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    restore = trees.read_only(tmp_path)
    try:
        data = data_pipelines.build(config)
        next(data_pipelines.train_batches(data, config, seed=0, start_step=0))
        next(data_pipelines.eval_batches(data.val, data.labels, 1))
        if os.geteuid():  # root may write anywhere
            with pytest.raises(PermissionError):
                (root / "new").touch()
    finally:
        restore()
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


def test_sources_are_alike_whatever_the_way_to_the_directory(tmp_path, monkeypatch):
    """The batches depend on the order of the names, which no directory listing changes."""
    trees.write_cityscapes(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset = OFFICIAL["cityscapes"]
    (absolute,), _ = dataset.open(tmp_path, ["train"])
    (relative,), _ = dataset.open(".", ["train"])
    assert [os.path.abspath(path) for path, _ in relative.pairs] == [path for path, _ in absolute.pairs]
    assert [path for path, _ in absolute.pairs] == sorted(path for path, _ in absolute.pairs)
