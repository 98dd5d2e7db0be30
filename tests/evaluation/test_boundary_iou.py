"""Boundary IoU against the definition, mask by mask and pixel by pixel."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from se_jax.evaluation.boundary_iou import BoundaryIoU, distance, inner_boundary

count = jax.jit(BoundaryIoU(("a", "b", "c")).update_whole)


def region(mask, kept, reach):
    """Definition: what `reach` erosions by 3 x 3 take from a binary mask; ignored pixels do not eat into it."""
    eroded = ndimage.binary_erosion(mask | ~kept, np.ones((3, 3)), iterations=reach, border_value=1)
    height, width = mask.shape
    inner = np.zeros_like(mask)
    inner[reach : height - reach, reach : width - reach] = True  # the image's border is the mask's
    return mask & ~(eroded & inner)


@pytest.mark.parametrize("size, reach", [((30, 40), 1), ((30, 61), 1), ((64, 90), 2), ((96, 40), 2)])
def test_it_is_the_definition_mask_by_mask(size, reach):
    random = np.random.default_rng(sum(size))
    ids, label = (random.integers(0, 3, (2, *(-(-side // 7) for side in size))) for _ in range(2))
    ids, label = (x.repeat(7, 1).repeat(7, 2)[:, : size[0], : size[1]].astype(np.uint8) for x in (ids, label))
    label[:, 5:20, 8:15] = 255
    ids[:, :16] = label[:, :16] % 3  # much is right, whatever lies under what is ignored
    assert int(distance(size)) == reach
    right, union = np.zeros((2, 3), int)
    for mask, truth in zip(ids, label, strict=True):
        kept = truth != 255
        for k in range(3):
            near = [region((x == k) & kept, kept, reach) for x in (truth, mask)]
            right[k] += np.sum(near[0] & near[1])
            union[k] += np.sum(near[0] | near[1])
    ids, label = (np.pad(x, ((0, 0), (0, 96 - size[0]), (0, 96 - size[1])), constant_values=255) for x in (ids, label))
    found = count(np.zeros((2, 3), np.int32), ids, label, np.array(size))
    np.testing.assert_array_equal(found, [right, union])
    assert (right > 0).all() and (right < union).all()
    result = BoundaryIoU(("a", "b", "c")).compute(np.asarray(found))
    assert result["boundary_miou"] == pytest.approx(np.mean(right / union))
    assert result["boundary_iou"]["b"] == right[1] / union[1]


def test_its_width_is_that_of_boundary_iou_api():
    """max(1, int(round(0.02 * sqrt(h * h + w * w)))) there, Python's rounding of halves included."""
    for size in [(10, 10), (45, 60), (75, 100), (105, 140), (512, 512), (1024, 2048), (683, 512)]:
        assert int(distance(size)) == max(1, round(0.02 * np.hypot(*size)))


def test_a_class_that_fills_the_image_ends_at_its_border():
    ids = np.ones((1, 12, 9), np.uint8)
    found = np.asarray(inner_boundary(ids, np.ones_like(ids, bool), ids.shape[1:], 2))
    assert not found[0, 2:-2, 2:-2].any() and found.sum() == 12 * 9 - 8 * 5
