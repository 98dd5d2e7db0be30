import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import class_file
from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec, ranges, voc_colours


def test_ids_map_to_themselves_and_255_is_ignored():
    labels = LabelSpec.create(["a", "b", "c"])
    raw = np.array([[0, 1], [2, 255]], np.uint8)
    np.testing.assert_array_equal(labels.apply(raw, "x.png"), raw)
    assert labels.num_classes == 3
    assert labels.allowed() == [0, 1, 2, 255]


def test_ids_can_be_mapped_and_ignored():
    labels = LabelSpec.create(["road", "sky"], ids={7: 0, 23: 1}, ignore=(0, 255))
    np.testing.assert_array_equal(labels.apply(np.array([[0, 7, 23, 255]], np.uint8), "x"), [[255, 0, 1, 255]])


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 254))
def test_apply_is_the_table_or_an_error_that_names_every_wrong_id(ids, classes):
    labels = LabelSpec.create([f"class {k}" for k in range(classes)])
    raw = np.array([ids], np.uint8)
    wrong = sorted({k for k in ids if k >= classes and k != IGNORE})
    if not wrong:
        np.testing.assert_array_equal(labels.apply(raw, "x"), labels.table[raw])
        return
    with pytest.raises(LabelError) as caught:
        labels.apply(raw, "somewhere/x.png")
    assert "somewhere/x.png" in str(caught.value) and f"holds ids {ranges(wrong)} that" in str(caught.value)


@pytest.mark.parametrize(
    "ids, text",
    [([], ""), ([7], "7"), ([0, 1, 2, 5, 255], "0-2, 5, 255"), ([3, 5, 6], "3, 5-6"), (range(256), "0-255")],
)
def test_ranges(ids, text):
    assert ranges(ids) == text


def test_advice_ends_the_error():
    labels = LabelSpec.create(["a"], advice="Call the dentist.")
    with pytest.raises(LabelError, match=r"allowed: 0, 255 for 1 classes and the ignored ones\). Call the dentist.$"):
        labels.apply(np.array([[3]], np.uint8), "x.png")


def test_colours_are_those_of_voc():
    np.testing.assert_array_equal(voc_colours(4), [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]])
    assert len(np.unique(voc_colours(254), axis=0)) == 254


def test_classes_json_with_its_own_ignored_id():
    text = '{"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "ignore_index": 9}'
    labels = class_file.parse(text, "classes.json")
    assert labels.names == ("a", "b")
    np.testing.assert_array_equal(labels.palette, [[1, 2, 3], [4, 5, 6]])
    assert labels.table[9] == labels.table[255] == IGNORE


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"classes": []}',
        '{"classes": "abc"}',
        '{"classes": ["a", "a"]}',
        '{"classes": ["a"], "palette": [[1, 2]]}',
        '{"classes": ["a"], "palette": [[1, 2, 300]]}',
        '{"classes": ["a"], "palette": [["red", 0, 0]]}',
        '{"classes": ["a"], "palette": []}',
        '{"classes": ["a"], "ignore_index": 256}',
    ],
)
def test_a_wrong_classes_json_is_named(text):
    with pytest.raises(DataError, match="set/classes.json cannot be used"):
        class_file.parse(text, "set/classes.json")
