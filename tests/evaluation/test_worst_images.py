"""Each class's worst images: the right ones, in any order."""

import numpy as np
import pytest

from se_jax.evaluation.worst_images import KEPT, WorstImages
from se_jax.report.errors import shown


def named(index):
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
    metric = WorstImages(("a", "b"), named, kept=3)
    total = metric.empty()
    for k in range(0, 5, batch):
        part = list(order[k : k + batch])
        index = np.array([-1 if i == 4 else i for i in part])
        total = metric.add(total, np.concatenate([IMAGES[i] for i in part]), index)
    table = metric.compute(total)["worst"]
    assert [(entry["index"], entry["iou"], entry["wrong"]) for entry in table["a"]] == [
        (2, 0, 9),
        (1, 0, 3),
        (3, 0.1, 9),
    ]
    assert [(entry["index"], entry["iou"], entry["wrong"]) for entry in table["b"]] == [(2, 0, 7), (3, 0, 7), (1, 1, 0)]
    assert table["a"][0]["image"] == "2.png"


def test_memory_is_bounded():
    metric = WorstImages(tuple(map(str, range(150))), named)
    total = metric.add(metric.empty(), np.ones((40, 2, 150), np.int32), np.arange(40))
    assert total.shape == (3, KEPT, 150)


def test_the_worst_classes_are_shown_and_faultless_ones_are_not():
    names = [f"c{k:02}" for k in range(20)]
    table = {name: [{"index": k, "iou": 0.5, "wrong": 9}] for k, name in enumerate(names)}
    table |= {"c03": [], "c04": [{"index": 4, "iou": 1.0, "wrong": 0}]}
    result = {"iou": {name: 1 - k / 20 for k, name in enumerate(names)}, "worst": table}
    assert [name for name, _ in shown(result)] == names[:-9:-1]
    assert WorstImages(tuple(names), named).examples(result) == list(range(19, 11, -1))
    few = {"iou": result["iou"], "worst": {name: table[name] for name in names[:6]}}
    assert [name for name, _ in shown(few)] == ["c05", "c02", "c01", "c00"]
    assert shown({"iou": {}}) == []
    even = {
        "iou": dict.fromkeys("ab", 0.0),
        "worst": {"a": [{"index": 0, "wrong": 3}], "b": [{"index": 0, "wrong": 4}]},
    }
    assert [name for name, _ in shown(even)] == ["b", "a"]
