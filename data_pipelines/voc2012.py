"""PASCAL VOC 2012, segmentation: 20 classes and background; with the masks of SBD (Hariharan et al., 2011) as trainaug.

VOC2012/ImageSets/Segmentation/SPLIT.txt, JPEGImages/NAME.jpg, SegmentationClass/NAME.png (palette files of ids;
255: the border of an object) and, for trainaug, SegmentationClassAug/NAME.png. As in mmsegmentation, trainaug has the
official mask of each image that has one, and SBD's of the others.
"""

import os
from collections.abc import Sequence

from data_pipelines.labels import LabelSpec, voc_colours
from data_pipelines.official import Official, list_lists
from data_pipelines.sources import ListSource, listed_images

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
ORIGIN = (
    "PASCAL VOC 2012 is VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; unpack it in "
    "data.dir, which then holds VOCdevkit/VOC2012/{ImageSets/Segmentation,JPEGImages,SegmentationClass}."
)
AUGMENTED = (
    "The augmented list is no part of PASCAL VOC. Get SBD (benchmark.tgz of "
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/) and let mmsegmentation's "
    "tools/dataset_converters/voc_aug.py write VOC2012/SegmentationClassAug/NAME.png and "
    "VOC2012/ImageSets/Segmentation/trainaug.txt (10582 names, one a line) from it, or put both there from elsewhere. "
    "Without it: data.train_split=train, the 1464 official images."
)
TEST = (
    "The test images are VOC2012test.tar of http://host.robots.ox.ac.uk:8080/ (after registration); unpack it beside "
    "the others. They have no masks: for predictions only."
)
LISTS = os.path.join("ImageSets", "Segmentation")
LABELS = LabelSpec.create(
    NAMES,
    [[0, 0, 0], *voc_colours(20).tolist()],
    advice="Masks of PASCAL VOC hold ids 0-20 and, on borders, 255.",
)


def _read(root: str, splits: Sequence[str]) -> tuple[list[ListSource], LabelSpec]:
    def source(split):
        augmented = split in ("aug", "trainaug")
        masks = ("SegmentationClass", "SegmentationClassAug") if augmented else ("SegmentationClass",)
        return ListSource(root, split, LISTS, "JPEGImages", masks, AUGMENTED if augmented else ORIGIN)

    return [source(split) for split in splits], LABELS


DATASET = Official(
    title="PASCAL VOC 2012",
    sizes={"train": 1464, "val": 1449, "trainaug": 10582},
    train_split="trainaug",
    val_split="val",
    places=("", "VOC2012", os.path.join("VOCdevkit", "VOC2012")),
    inside=LISTS,
    origin=ORIGIN,
    files="voc2012",
    kinds={"masks": LABELS},
    additions={"trainaug": AUGMENTED, "aug": AUGMENTED, "test": TEST},
    list_splits=lambda root: list_lists(os.path.join(root, LISTS)),
    read=_read,
    images=lambda root, split: (list(listed_images(root, split, LISTS, "JPEGImages", ORIGIN).values()), LABELS),
)
