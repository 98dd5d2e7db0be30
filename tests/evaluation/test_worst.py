"""Each class's worst images: the right ones, in any order; and the geometry of what is shown of them."""

import numpy as np
import pytest
from se_jax.evaluation.worst import Worst

from se_jax.evaluation import worst


class Named:
    def image_name(self, index):
        return f"some/where/{index}.png"


def areas(*classes):
    """One image's areas out of (intersection, union) for each class."""
    return np.array([classes]).transpose(0, 2, 1)


IMAGES = [  # areas of two classes
    areas((5, 10), (0, 0)),
    areas((0, 3), (2, 2)),
    areas((0, 9), (0, 7)),
    areas((1, 10), (0, 7)),
    areas((0, 0), (0, 0)),  # a filler
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 3, 1)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_worst_are_found_in_any_order_and_batch(order, batch):
    found = Worst(2, kept=3)
    for k in range(0, 5, batch):
        part = list(order[k : k + batch])
        found.add([-1 if i == 4 else i for i in part], np.concatenate([IMAGES[i] for i in part]))
    table = found.table(("a", "b"), Named())
    assert [(entry["index"], entry["iou"], entry["wrong"]) for entry in table["a"]] == [
        (2, 0, 9),
        (1, 0, 3),
        (3, 0.1, 9),
    ]
    assert [(entry["index"], entry["iou"], entry["wrong"]) for entry in table["b"]] == [(2, 0, 7), (3, 0, 7), (1, 1, 0)]
    assert table["a"][0]["image"] == "2.png"


def test_memory_is_bounded():
    found = Worst(150)
    found.add(np.arange(40), np.ones((40, 2, 150), np.int32))
    assert found.entries.shape == (3, worst.KEPT, 150)


def test_the_worst_classes_are_shown_and_faultless_ones_are_not():
    names = [f"c{k:02}" for k in range(20)]
    table = {name: [{"index": k, "iou": 0.5, "wrong": 9}] for k, name in enumerate(names)}
    table |= {"c03": [], "c04": [{"index": 4, "iou": 1.0, "wrong": 0}]}
    result = {"iou": {name: 1 - k / 20 for k, name in enumerate(names)}, "worst": table}
    assert [name for name, _ in worst.shown(result)] == names[:-9:-1]
    assert worst.indices(result) == list(range(19, 11, -1))
    few = {"iou": result["iou"], "worst": {name: table[name] for name in names[:6]}}
    assert [name for name, _ in worst.shown(few)] == ["c05", "c02", "c01", "c00"]
    assert worst.shown({"iou": {}}) == []
    even = {
        "iou": dict.fromkeys("ab", 0.0),
        "worst": {"a": [{"index": 0, "wrong": 3}], "b": [{"index": 0, "wrong": 4}]},
    }
    assert [name for name, _ in worst.shown(even)] == ["b", "a"]


def test_a_border_is_where_the_mask_meets_something_else():
    mask = np.zeros((6, 6), bool)
    mask[2:4, 3:] = True
    expected = [".." + "....", "...###", "..####", "..####", "...###", "......"]
    assert ["".join(".#"[cell] for cell in row) for row in worst.border(mask).astype(int)] == expected
    assert not worst.border(np.ones((4, 4), bool)).any()


@pytest.mark.parametrize(
    "spot, expected",
    [
        ((slice(40, 42), slice(100, 104)), ((28, 53), (77, 127))),  # small: a quarter of the picture around it
        ((slice(0, 2), slice(196, 200)), ((0, 25), (150, 200))),  # in a corner: moved inside
        ((slice(20, 60), slice(0, 60)), ((10, 70), (0, 120))),  # half as much again
        ((slice(0, 100), slice(0, 200)), ((0, 100), (0, 200))),
        ((slice(0, 0), slice(0, 0)), ((0, 100), (0, 200))),  # nowhere: everything
    ],
)
def test_surroundings_hold_the_spot_in_the_pictures_shape(spot, expected):
    mask = np.zeros((100, 200), bool)
    mask[spot] = True
    found = [part.indices(side)[:2] for part, side in zip(worst.surroundings(mask), mask.shape, strict=True)]
    assert found == list(expected)
