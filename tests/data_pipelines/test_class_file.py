"""classes.json: which file ids and colours mean which class; contradictions show the table that would result."""

import json

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines.class_file import parse
from data_pipelines.labels import IGNORE, UNKNOWN, DataError, LabelError

COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def spec(classes=("a", "b", "c"), **more):
    return parse(json.dumps({"classes": list(classes), **more}), "set/classes.json")


def meanings(labels):
    """{file id: train id} of the ids that may occur."""
    return {raw: int(labels.table[raw]) for raw in labels.allowed()}


# ---- Ids ----


@pytest.mark.parametrize(
    "more, expected",
    [
        ({}, {0: 0, 1: 1, 255: IGNORE}),
        ({"ids": [0, 255]}, {0: 0, 255: 1}),
        ({"ids": [255, 0]}, {255: 0, 0: 1}),
        ({"ids": [[1, 2], 7], "ignore": [0]}, {0: IGNORE, 1: 0, 2: 0, 7: 1, 255: IGNORE}),
        ({"ids": [1, 2], "ignore": 0}, {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}),
        ({"reduce_zero_label": True}, {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}),
        ({"reduce_zero_label": True, "ids": [1, 2]}, {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}),
        ({"reduce_zero_label": True, "ignore_index": 0}, {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}),
        ({"ignore_index": 9}, {0: 0, 1: 1, 9: IGNORE, 255: IGNORE}),
        ({"ignore_index": 9, "ignore": [8, 255]}, {0: 0, 1: 1, 8: IGNORE, 9: IGNORE, 255: IGNORE}),
        ({"ids": [254, 253], "_note": "ids from the end", "source": "somewhere"}, {253: 1, 254: 0, 255: IGNORE}),
    ],
)
def test_file_ids_mean_what_is_said(more, expected):
    assert meanings(spec(("a", "b"), **more)) == expected


def test_255_can_be_a_class(folder, folder_config):
    (folder / "classes.json").write_text('{"classes": ["a", "b", "c"], "ids": [0, 1, 255]}')
    data = data_pipelines.build(folder_config)
    assert data.pixels["train"].pixels.all() and data.pixels["train"].ignored == 0
    batch = next(data_pipelines.eval_batches(data.val, data.labels, 1))
    assert batch["label"][0, -1, -1] == 2
    assert data.labels.file_ids().tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    "more, said",
    [
        ({"ignore_index": 0}, ["file ids [0] are of one class and ignored", "0  a and (ignored)   <- two", "1  b\n"]),
        ({"ignore": [2, 0]}, ["file ids [0, 2] are of one class and ignored"]),
        ({"ids": [0, 1, 1]}, ["file ids [1] are of several classes", "1  b and c   <- two meanings"]),
        ({"ids": [0, [1, 2], [2, 3]]}, ["2  b and c"]),
        ({"ids": [0, 1]}, ["'ids' has 2 entries for 3 classes", "-  c   <- no id"]),
        ({"ids": [0, 1, 2, 3]}, ["'ids' has 4 entries for 3 classes"]),
        ({"ids": [0, 1, 255], "ignore": [255]}, ["255  c and (ignored)"]),
        ({"ids": [0, 1, 2], "reduce_zero_label": True}, ["'reduce_zero_label' means ids 1..K", "0  a and (ignored)"]),
        ({"reduce_zero_label": True, "ignore": [3]}, ["3  c and (ignored)"]),
        ({"palette": COLOURS, "ignore": [[0, 128, 0]]}, ["the colour [0, 128, 0] is that of 'c' and ignored"]),
        ({"palette": [[1, 1, 1]] * 3, "masks": "colours"}, ["1 colours of 'palette' are of two classes"]),
    ],
)
def test_a_contradiction_shows_the_table_that_would_result(more, said):
    with pytest.raises(DataError, match="set/classes.json contradicts itself") as caught:
        spec(**more)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"classes": ["a", "b"], "ids": [0, 256]}', "'ids' holds 256, not an id in 0..255"),
        ('{"classes": ["a", "b"], "ids": [0, true]}', "'ids' holds True"),
        ('{"classes": ["a", "b"], "ids": [0, 1.0]}', "'ids' holds 1.0"),
        ('{"classes": ["a", "b"], "ids": [0, []]}', "'ids' gives class 1 no id"),
        ('{"classes": ["a", "b"], "ids": {"a": 0}}', "not a list"),
        ('{"classes": ["a", "b"], "ids": [0, [[1]]]}', "not an id"),
        ('{"classes": ["a", "b"], "ignore": [-1]}', "'ignore' holds -1"),
        ('{"classes": ["a", "b"], "ignore": [[0, 0]]}', "not a colour"),
        ('{"classes": ["a", "b"], "ignore": [[0, 0, 0]]}', "there is no 'palette'"),
        ('{"classes": ["a", "b"], "reduce_zero_label": 1}', "'reduce_zero_label' is 1, not one of false, true"),
        ('{"classes": ["a", "b"], "palette_in_files": "ignored"}', 'not one of "compare", "ignore"'),
        ('{"classes": ["a", "b"], "masks": 1}', 'not one of "auto", "ids", "colours"'),
        ('{"classes": ["a", "b"], "ignored": [0]}', "'ignored' is no key; did you mean 'ignore'?"),
        ('{"classes": ["a", "b"], "pallete": []}', "did you mean 'palette'?"),
        ('{"classes": ["a", "b"], "ids": [0, 1], "ids": [1, 0]}', "'ids' is there twice"),
        ('{"classes": ["a", ""]}', "not a list of names"),
        ('{"classes": []}', "not a list of names"),
        ("{}", "'classes' is missing"),
        ("[" * 100000, ""),
    ],
)
def test_what_cannot_be_is_named(text, said):
    with pytest.raises(DataError, match="set/classes.json cannot be used") as caught:
        parse(text, "set/classes.json")
    assert said in str(caught.value)


# ---- Colours ----


def masks(folder, paint, splits=("train", "val")):
    """Writes every mask anew: ids [h, w], 2 in a corner and else 0, -> an image."""
    for split in splits:
        for path in (folder / "annotations" / split).glob("*.png"):
            width, height = Image.open(path).size
            ids = np.zeros((height, width), np.uint8)
            ids[: height // 2, : width // 2] = 2
            paint(ids).save(path)


def test_three_equal_channels_are_ids(folder, folder_config):
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": COLOURS}))
    masks(folder, lambda ids: Image.fromarray(np.stack([ids] * 3, -1)))
    data = data_pipelines.build(folder_config)
    _, label = data_pipelines.read_example(data.train, data.labels, 0)
    assert label[0, 0] == 2 and label[-1, -1] == 0
    assert data.pixels["train"].absent == ["b"]


def test_colours_are_looked_up_exactly(folder, folder_config):
    """Even where they lie close together; an RGBA file with an opaque alpha is the same."""
    close = [[0, 0, 0], [200, 100, 50], [201, 101, 51]]
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": close}))
    for mode in ("RGB", "RGBA"):
        masks(folder, lambda ids, mode=mode: Image.fromarray(np.array(close, np.uint8)[ids]).convert(mode))
        data = data_pipelines.build(folder_config)
        _, label = data_pipelines.read_example(data.train, data.labels, 0)
        assert label[0, 0] == 2 and label[-1, -1] == 0


def test_an_unknown_colour_is_an_error_with_its_count_and_file():
    labels = spec(palette=COLOURS)
    row = np.array([[[0, 0, 0], [64, 0, 0], [128, 0, 0], [64, 0, 0], [255, 255, 254]]], np.uint8)
    with pytest.raises(DataError, match=r"m/x.png: 3 of 5 pixels .*\(64, 0, 0\) in 2 pixels, \(255, 255, 254\) in 1"):
        labels.read(row, "m/x.png")
    with pytest.raises(DataError, match=r"x.png: the annotation has colours \(.*no palette says which class"):
        spec().read(row, "x.png")
    ignoring = spec(palette=COLOURS, ignore=[[64, 0, 0], [255, 255, 254]])
    assert ignoring.read(row, "x").tolist() == [[0, 255, 1, 255, 255]]


def test_colours_stop_the_count_whatever_on_error_says(folder, folder_config):
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": COLOURS}))
    masks(folder, lambda ids: Image.fromarray(np.array([[0, 0, 0], [9, 9, 9], [0, 127, 0]], np.uint8)[ids]))
    folder_config.on_error = "skip"
    with pytest.raises(LabelError, match=r"im0.png: 150 of 600 pixels .* \(0, 127, 0\) in 150 pixels"):
        data_pipelines.build(folder_config)


def test_grey_colours_that_could_be_ids_have_to_be_said():
    """Black and white in RGB: as ids, white would be ignored in silence."""
    white = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    palette = {"palette": [[0, 0, 0], [255, 255, 255]]}
    with pytest.raises(DataError, match='255 as an id is ignored.*as a colour is .b.*"masks": "colours"'):
        spec(("a", "b"), **palette).read(white, "x.png")
    assert spec(("a", "b"), **palette, masks="colours").read(white, "x").tolist() == [[0, 1]]
    assert spec(("a", "b"), **palette, masks="ids").read(white, "x").tolist() == [[0, 255]]
    assert spec(("a", "b"), palette=[[0, 0, 0], [70, 70, 70]]).read(white // 255 * 70, "x").tolist() == [[0, 1]]
    with pytest.raises(DataError, match='classes.json says "masks": "ids"'):
        spec(("a", "b"), **palette, masks="ids").read(np.array([[[1, 2, 3]]], np.uint8), "x.png")


# ---- Palettes in the files ----


def palette_file(ids, colours):
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette(np.ravel(colours).astype(np.uint8).tobytes())
    return image


def test_a_palette_that_contradicts_classes_json_shows_both(folder, folder_config):
    swapped = [COLOURS[0], COLOURS[2], COLOURS[1]]
    for more in ({}, {"palette_in_files": "ignore"}):
        (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": COLOURS, **more}))
        masks(folder, lambda ids: palette_file(ids, COLOURS), ["val"])
        masks(folder, lambda ids: palette_file(ids, swapped), ["train"])
        if more:
            assert data_pipelines.build(folder_config).pixels["train"].absent == ["b"]
            continue
        with pytest.raises(DataError, match="train/im0.png: the file's own palette contradicts classes.json") as caught:
            data_pipelines.build(folder_config)
        assert "id 2: (128, 0, 0) in the file, the colour of 'b'; 'c' (0, 128, 0) in classes.json" in str(caught.value)


def test_palettes_that_say_nothing_else_are_accepted():
    labels = spec(palette=COLOURS)
    ids = np.array([[0, 2, 255]], np.uint8)
    ramp = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    agrees = np.zeros((256, 3), np.uint8)
    agrees[:3], agrees[1], agrees[255] = COLOURS, (9, 9, 9), (1, 2, 3)  # id 1 is not in the file, 255 is no class
    for palette in (ramp, agrees):
        assert labels.read(ids, "x", palette).tolist() == [[0, 2, 255]]
    several = spec(("a", "b"), palette=COLOURS[:2], ids=[[0, 2], 1])
    assert several.read(ids, "x", np.array([[0, 0, 0], [128, 0, 0], [5, 5, 6]], np.uint8)).tolist() == [[0, 0, 255]]
    with pytest.raises(DataError, match="the colour of 'b'; 'a'"):
        several.read(ids, "x", np.array([[0, 0, 0], [0, 1, 0], [128, 0, 0]], np.uint8))


def test_the_table_has_no_hole():
    labels = spec()
    assert (labels.table == UNKNOWN).sum() == 256 - 4
    assert labels.meanings().splitlines() == ["      0  a", "      1  b", "      2  c", "    255  (ignored)"]
