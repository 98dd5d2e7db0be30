"""Masks of colours become masks of ids, exactly, or nothing is written."""

import json

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import convert
from data_pipelines.labels import DataError

CLOSE = np.array([[0, 0, 0], [200, 100, 50], [201, 101, 51], [10, 10, 10]], np.uint8)


def write(folder, paint, **more):
    """Masks of ids 0 to 3 as `paint` draws them, and classes.json; returns the ids of im0."""
    content = {"classes": list("abcd"), "palette": CLOSE.tolist(), **more}
    (folder / "classes.json").write_text(json.dumps(content))
    for k, path in enumerate(sorted((folder / "annotations").rglob("*.png"))):
        width, height = Image.open(path).size
        ids = (np.arange(height * width).reshape(height, width) + k) % 4
        paint(ids.astype(np.uint8)).save(path)
    return np.arange(20 * 30).reshape(20, 30) % 4


def read(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("source", ["", "annotations"])
def test_colours_are_looked_up_exactly(folder, folder_config, tmp_path, capsys, source):
    """Neighbouring colours stay apart, and the same classes.json describes what is written."""
    ids = write(folder, lambda ids: Image.fromarray(CLOSE[ids]))
    convert.main([f"--source={folder / source}", f"--output={tmp_path / 'out'}"])
    assert f"10 masks of ids are in {tmp_path / 'out'}; --config.data.label_dir=" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out" / "train" / "im0.png"), ids)
    folder_config.label_dir = str(tmp_path / "out")
    data = data_pipelines.build(folder_config)
    np.testing.assert_array_equal(data_pipelines.read_example(data.train, data.labels, 0)[1], ids)


def test_files_get_the_ids_of_classes_json(folder, tmp_path):
    ids = write(
        folder,
        lambda ids: Image.fromarray(CLOSE[ids]),
        classes=list("abc"),
        palette=CLOSE[:3].tolist(),
        ids=[255, [7, 5], 9],
        ignore=[30, [10, 10, 10]],
    )
    convert.convert(str(folder), str(tmp_path / "out"))
    np.testing.assert_array_equal(read(tmp_path / "out/train/im0.png"), np.array([255, 5, 9, 30])[ids])


def test_an_unknown_colour_is_an_error_and_nothing_is_written(folder, tmp_path):
    write(folder, lambda ids: Image.fromarray(CLOSE[ids]))
    path = folder / "annotations" / "val" / "im4.png"
    pixels = np.array(Image.open(path))
    pixels[3, 4:6] = (64, 0, 0)
    Image.fromarray(pixels).save(path)
    with pytest.raises(
        SystemExit, match=rf"data_pipelines.convert: {path}: 2 of 600 pixels .*\(64, 0, 0\) in 2 pixels"
    ):
        convert.main([f"--source={folder}", f"--output={tmp_path / 'out'}"])
    assert not list(tmp_path.glob("out*"))


def test_ids_stay_and_palettes_are_looked_up_on_request(folder, tmp_path):
    def swapped(ids):
        order = np.array([1, 0, 3, 2], np.uint8)
        image = Image.frombytes("P", ids.shape[::-1], order[ids].tobytes())
        image.putpalette(CLOSE[order].tobytes())
        return image

    ids = write(folder, Image.fromarray)
    convert.convert(str(folder), str(tmp_path / "a"))
    np.testing.assert_array_equal(read(tmp_path / "a/train/im0.png"), ids)
    write(folder, swapped)
    with pytest.raises(DataError, match="the file's own palette contradicts classes.json"):
        convert.convert(str(folder), str(tmp_path / "b"))
    convert.convert(str(folder), str(tmp_path / "b"), by="colours")
    np.testing.assert_array_equal(read(tmp_path / "b/train/im0.png"), ids)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="no directory; expected a data set with classes.json"):
        convert.convert(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="exists; give a new directory"):
        convert.convert(str(folder), str(tmp_path))
    (tmp_path / "x" / "y" / "z" / "masks").mkdir(parents=True)
    with pytest.raises(DataError, match="no classes.json in .* three directories above"):
        convert.convert(str(tmp_path / "x/y/z/masks"), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"holds no mask \(.png"):
        convert.convert(str(tmp_path / "x"), str(tmp_path / "out"), classes=str(folder / "classes.json"))
