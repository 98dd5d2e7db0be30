"""PASCAL Context (Mottaghi et al., 2014) on the images of VOC 2010: 59 classes, or 60 with background.

In the layout of mmsegmentation's converter, which makes masks of one byte a pixel from the published annotations of 459
classes: VOC2010/ImageSets/SegmentationContext/SPLIT.txt, JPEGImages/NAME.jpg, SegmentationClassContext/NAME.png with
0 for background and 1..59 for the classes in the order of their published ids, which is not the order of the authors'
list of 59.
"""

import os
from collections.abc import Callable, Sequence

from data_pipelines import ade20k
from data_pipelines.labels import IGNORE, LabelSpec
from data_pipelines.official import Official, list_lists
from data_pipelines.sources import ListSource, listed_images

NAMES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building"),
    *("bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog"),
    *("door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike"),
    *("mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves"),
    *("sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall"),
    *("water", "window", "wood"),
)
ORIGIN = (
    "PASCAL Context is VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010/, unpacked in "
    "data.dir, and trainval_merged.json of https://codalabuser.blob.core.windows.net/public/trainval_merged.json, from "
    "which mmsegmentation's tools/dataset_converters/pascal_context.py writes "
    "VOCdevkit/VOC2010/{SegmentationClassContext,ImageSets/SegmentationContext}."
)
ADVICE = "Masks of PASCAL Context as mmsegmentation's converter writes them hold ids 0-59."
LISTS = os.path.join("ImageSets", "SegmentationContext")
# mmsegmentation gives the classes ADE20K's first colours, background's first.
LABELS = LabelSpec.create(
    NAMES,
    ade20k.PALETTE[1:60],
    ids={k + 1: k for k in range(59)},
    ignore=(0, IGNORE),
    advice=ADVICE,
)
LABELS_60 = LabelSpec.create(("background", *NAMES), ade20k.PALETTE[:60], advice=ADVICE)


def _reader(labels: LabelSpec) -> Callable:
    def read(root: str, splits: Sequence[str]) -> tuple[list[ListSource], LabelSpec]:
        masks = ("SegmentationClassContext",)
        return [ListSource(root, split, LISTS, "JPEGImages", masks, ORIGIN) for split in splits], labels

    return read


def _dataset(labels: LabelSpec) -> Official:
    return Official(
        title="PASCAL Context",
        sizes={"train": 4998, "val": 5105},
        train_split="train",
        val_split="val",
        places=("", "VOC2010", os.path.join("VOCdevkit", "VOC2010")),
        inside=LISTS,
        origin=ORIGIN,
        files="pascal_context",
        kinds={"masks": labels},
        list_splits=lambda root: list_lists(os.path.join(root, LISTS)),
        read=_reader(labels),
        images=lambda root, split: (list(listed_images(root, split, LISTS, "JPEGImages", ORIGIN).values()), labels),
    )


DATASET = _dataset(LABELS)
DATASET_60 = _dataset(LABELS_60)
