"""Submissions: the files that a server takes, every image once, all of them or nothing."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import ade20k, cityscapes, class_file, voc2012
from data_pipelines.labels import DataError, LabelSpec
from se_jax.config import options
from se_jax.evaluation import inference, submission
from se_jax.evaluation.protocol import protocol
from se_jax.models import build
from tests import tiny
from tests.data_pipelines import trees


def make_config(name, directory, classes, **data):
    config = options.get_config()
    config.data.update(name=name, dir=str(directory), **data)
    config.model = options.model()
    config.model.num_classes, config.model.auxiliary = classes, None
    config.model.encoder.update(depth=10, width=8, output_stride=8)
    config.model.decoder = options.decoder("fcn", channels=4, num_convs=1, concat_input=False)
    config.model.equalizer.mode = "none"
    return config


def expected(config, variables, path):
    """Class ids of an image file."""
    programs = inference.build(build(config.model), protocol(config.eval))
    with Image.open(path) as picture:
        return programs.class_ids(variables, np.asarray(picture.convert("RGB"))[None])[0]


def read(path):
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def test_cityscapes_test_images_without_labels(tmp_path, capsys):
    """Ids of labelIds, names as the server wants them; every size, batches with fillers, eight devices."""
    root = trees.write_cityscapes(tmp_path / "data", splits=("train", "test"))
    for path in (root / "gtFine" / "test").rglob("*.png"):
        path.unlink()
    larger = root / "leftImg8bit" / "test" / "b" / "b_000000_000019_leftImg8bit.png"
    Image.fromarray(tiny.images(1, size=65)[0]).save(larger)
    config = make_config("cityscapes", tmp_path / "data", 19, val_split="test")
    variables = tiny.init(build(config.model), size=33)
    submission.run(config, variables, tmp_path / "out" / "deep")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    frames = ["a_000000_000019", "a_000001_000019", "b_000000_000019"]
    assert found == ["deep", *(f"deep/{frame}.png" for frame in frames)]
    for frame in frames:
        mode, ids = read(tmp_path / "out" / "deep" / f"{frame}.png")
        source = root / "leftImg8bit" / "test" / frame[0] / f"{frame}_leftImg8bit.png"
        np.testing.assert_array_equal(ids, np.array(cityscapes.IDS)[expected(config, variables, source)])
        assert mode == "L"
    assert len(np.unique(ids)) > 1
    assert "3 images of" in capsys.readouterr().out


@pytest.mark.parametrize("name, classes", [("ade20k", 150), ("voc2012", 21), ("folder", 3)])
def test_the_files_of_a_data_set(tmp_path, monkeypatch, name, classes):
    """The prediction is put in the network's place: what counts here is what is written."""
    directory, random = tmp_path / "data", np.random.default_rng(0)
    ids = random.integers(0, classes, (trees.HEIGHT, trees.WIDTH)).astype(np.uint8)
    monkeypatch.setattr(inference.Inference, "class_ids", lambda *args: np.stack([ids] * len(args[2])))
    if name == "ade20k":
        trees.write_ade20k(directory)
    elif name == "voc2012":
        trees.write_voc2012(directory)
    else:
        trees.write_image(directory / "images" / "val" / "x.jpg")
        (directory / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": [[9, 8, 7]] * 3}))
    submission.run(make_config(name, directory, classes), {}, tmp_path / "out")
    paths = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    names = {
        "ade20k": ["ADE_val_00000001.png", "ADE_val_00000002.png"],
        "voc2012": ["results/VOC2012/Segmentation/comp6_val_cls/2007_c.png"],
        "folder": ["x.png"],
    }
    assert [str(path.relative_to(tmp_path / "out")) for path in paths] == names[name]
    mode, written = read(paths[0])
    np.testing.assert_array_equal(written, ids + (name == "ade20k"))
    assert mode == ("L" if name == "ade20k" else "P")
    if name == "voc2012":
        with Image.open(paths[0]) as picture:
            colours = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(colours, voc2012.LABELS.palette[ids])


def test_ids_are_those_of_the_annotations():
    for labels in cityscapes.KINDS.values():
        assert submission.form("cityscapes", labels).ids[:19].tolist() == list(cityscapes.IDS)
    assert submission.form("ade20k", ade20k.LABELS).ids[:150].tolist() == list(range(1, 151))


def test_ids_of_a_folder_are_those_that_classes_json_says():
    """Several ids of a class, 255 among them, and a table without an id for a class."""
    labels = class_file.parse('{"classes": ["a", "b"], "ids": [[9, 3], 255], "palette": [[1, 2, 3], [4, 5, 6]]}', "x")
    kind = submission.form("folder", labels)
    assert kind.ids[:2].tolist() == [3, 255] and len(kind.colours) == 256
    assert kind.colours[[3, 255]].tolist() == [[1, 2, 3], [4, 5, 6]]
    holed = LabelSpec(labels.names, labels.palette, np.full(256, 255, np.uint8))
    with pytest.raises(DataError, match="no id in the files means a, b"):
        submission.form("folder", holed)


@pytest.fixture
def ade(tmp_path):
    trees.write_ade20k(tmp_path / "data")
    return make_config("ade20k", tmp_path / "data", 150)


def test_a_stopped_run_leaves_no_submission_and_is_not_mixed_with_the_next(tmp_path, monkeypatch, ade):
    def fail(*_):
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(inference.Inference, "class_ids", fail)
        with pytest.raises(RuntimeError, match="stopped"):
            submission.run(ade, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match=r"out\.unfinished exists: a run that was stopped left it.*remove it"):
        submission.run(ade, {}, tmp_path / "out")
    (tmp_path / "done").mkdir()
    with pytest.raises(FileExistsError, match=r"--submission=.*done exists"):
        submission.run(ade, {}, tmp_path / "done")


def test_several_processes_share_the_images(tmp_path, monkeypatch, ade):
    """Two processes, one after the other, at the very place where each would wait for the other."""
    trees.write_ade20k(tmp_path / "data", val=6)
    written = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(inference.Inference, "class_ids", lambda *args: np.zeros(args[2].shape[:3], np.uint8))
    monkeypatch.setattr(submission, "save_ids", lambda path, *_: written.append(path))
    monkeypatch.setattr(submission, "_wait", lambda name: None)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(FileNotFoundError, match="must lie where every process sees it"):
        submission.run(ade, {}, tmp_path / "out")
    (tmp_path / "out.unfinished").mkdir()
    submission.run(ade, {}, tmp_path / "out")
    assert [path.name for path in written] == ["ADE_val_00000005.png", "ADE_val_00000006.png"]
    (tmp_path / "out.unfinished").rmdir()
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    submission.run(ade, {}, tmp_path / "out")
    assert (tmp_path / "out").is_dir()
    assert sorted(path.name for path in written) == [f"ADE_val_{k:08}.png" for k in range(1, 7)]


def test_what_cannot_be_is_refused(tmp_path, ade):
    ade.model.num_classes = 3
    with pytest.raises(ValueError, match="network has 3 classes, but the data set has 150"):
        submission.run(ade, {}, tmp_path / "out")
    ade.data.val_split = "testing"
    with pytest.raises(DataError, match="no split 'testing'.*release_test.zip"):
        submission.run(ade, {}, tmp_path / "out")
    ade.data.name = "shapes"
    with pytest.raises(DataError, match="generated pictures"):
        submission.run(ade, {}, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_two_images_of_one_name_are_refused(tmp_path):
    root = trees.write_cityscapes(tmp_path, splits=("val",))
    frame = root / "leftImg8bit" / "val" / "a" / "a_000000_000019_leftImg8bit.png"
    (root / "leftImg8bit" / "val" / "b" / frame.name).write_bytes(frame.read_bytes())
    with pytest.raises(ValueError, match="two images of the name a_000000_000019"):
        submission.run(make_config("cityscapes", root, 19), {}, tmp_path / "out")


def test_an_output_that_cannot_be_made_is_named(tmp_path, ade):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--submission=.*file/out cannot be written"):
        submission.run(ade, {}, tmp_path / "file" / "out")
