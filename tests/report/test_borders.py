"""The geometry of what is shown of the worst images."""

import numpy as np
import pytest

from se_jax.report.borders import border, surroundings


def test_a_border_is_where_the_mask_meets_something_else():
    mask = np.zeros((6, 6), bool)
    mask[2:4, 3:] = True
    expected = [".." + "....", "...###", "..####", "..####", "...###", "......"]
    assert ["".join(".#"[cell] for cell in row) for row in border(mask).astype(int)] == expected
    assert not border(np.ones((4, 4), bool)).any()


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
    found = [part.indices(side)[:2] for part, side in zip(surroundings(mask), mask.shape, strict=True)]
    assert found == list(expected)
