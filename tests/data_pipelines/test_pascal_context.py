import numpy as np
import pytest

from data_pipelines import pascal_context
from data_pipelines.labels import IGNORE, UNKNOWN, DataError
from data_pipelines.sources import read_example
from tests.data_pipelines.trees import write_pascal_context, write_voc2012


def test_labels():
    assert len(pascal_context.NAMES) == 59 and sorted(pascal_context.NAMES) == list(pascal_context.NAMES)
    table, table_60 = pascal_context.LABELS.table, pascal_context.LABELS_60.table
    assert table[0] == IGNORE and table_60[0] == 0
    np.testing.assert_array_equal(table[1:60], np.arange(59))
    np.testing.assert_array_equal(table_60[1:60], np.arange(1, 60))
    for one in (table, table_60):
        assert (one[60:255] == UNKNOWN).all() and one[255] == IGNORE
    np.testing.assert_array_equal(pascal_context.LABELS.palette, pascal_context.LABELS_60.palette[1:])
    assert pascal_context.LABELS_60.palette[[0, 59]].tolist() == [[120, 120, 120], [31, 0, 255]]


@pytest.mark.parametrize(
    "dataset, found", [(pascal_context.DATASET, [255, 0, 58]), (pascal_context.DATASET_60, [0, 1, 59])]
)
def test_read_with_and_without_background(tmp_path, dataset, found):
    root = write_pascal_context(tmp_path)
    for directory in (root, tmp_path):
        sources, labels = dataset.open(directory, ("train", "val"))
        assert [len(source) for source in sources] == [1, 1]
    assert read_example(sources[1], labels, 0)[1][0, [0, 6, 12]].tolist() == found


def test_what_is_not_converted_is_explained(tmp_path):
    root = write_pascal_context(tmp_path)
    (root / "SegmentationClassContext" / "2008_0.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationClassContext/2008_0.png. PASCAL Context is .*pascal_context.py"):
        pascal_context.DATASET.open(root, ["train"])
    with pytest.raises(DataError, match=r"VOC2012' does not hold PASCAL Context: no ImageSets/SegmentationContext/"):
        pascal_context.DATASET.open(write_voc2012(tmp_path), ["train"])
