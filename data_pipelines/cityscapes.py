"""Cityscapes, fine annotations: 19 classes of 34 ids.

leftImg8bit/SPLIT/CITY/FRAME_leftImg8bit.png and gtFine/SPLIT/CITY/FRAME_gtFine_labelIds.png. Where every frame of the
splits asked for also has a _gtFine_labelTrainIds.png, as mmsegmentation wants them, those are read; both give the same
labels.
"""

import os
from collections.abc import Sequence

import tensorflow as tf

from data_pipelines.labels import DataError, LabelSpec
from data_pipelines.official import Official, list_directories
from data_pipelines.sources import FileSource, require_files

# name, colour, id in labelIds
CLASSES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
NAMES, PALETTE, IDS = zip(*CLASSES, strict=True)
ORIGIN = (
    "Cityscapes is leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
    "https://www.cityscapes-dataset.com/downloads/ (after registration); unpack both in data.dir, which then holds "
    "leftImg8bit/{train,val,test} and gtFine/{train,val,test}."
)
LABELS = LabelSpec.create(
    NAMES,
    PALETTE,
    ids={raw: train for train, raw in enumerate(IDS)},
    ignore=[raw for raw in range(34) if raw not in IDS],
    advice="A labelIds file holds 0-33. One with 255 is a labelTrainIds file under a wrong name: rename it to "
    "*_gtFine_labelTrainIds.png, or take labelIds from gtFine_trainvaltest.zip.",
)
LABELS_TRAIN_IDS = LabelSpec.create(
    NAMES,
    PALETTE,
    advice="A labelTrainIds file holds 0-18 and 255. One with 19-33 is a labelIds file under a wrong name: rename it "
    "to *_gtFine_labelIds.png, or make labelTrainIds with cityscapesscripts' createTrainIdLabelImgs.",
)
KINDS = {"labelTrainIds": LABELS_TRAIN_IDS, "labelIds": LABELS}


def _read(root: str, splits: Sequence[str]) -> tuple[list[FileSource], LabelSpec]:
    images = [_images(root, split) for split in splits]
    for kind in KINDS:
        labels = [_frames(root, "gtFine", split, f"_gtFine_{kind}.png") for split in splits]
        if all(ours.keys() <= theirs.keys() for ours, theirs in zip(images, labels, strict=True)):
            break  # else the last kind, labelIds
    sources = []
    for split, ours, theirs in zip(splits, images, labels, strict=True):
        for have, want, folder, ending in (
            (theirs, ours, "gtFine", f"gtFine_{kind}"),
            (ours, theirs, "leftImg8bit", "leftImg8bit"),
        ):
            missing = [
                os.path.join(root, folder, split, f"{frame}_{ending}.png") for frame in want if frame not in have
            ]
            require_files(missing, len(want), f"{folder}/{split}/CITY/*_{ending}.png", ORIGIN)
        sources.append(FileSource(f"{root} ({split})", [(path, theirs[frame]) for frame, path in ours.items()]))
    return sources, KINDS[kind]


def _images(root: str, split: str) -> dict[str, str]:
    frames = _frames(root, "leftImg8bit", split, "_leftImg8bit.png")
    if not frames:
        raise DataError(f"{os.path.join(root, 'leftImg8bit', split)} holds no CITY/*_leftImg8bit.png. {ORIGIN}")
    return frames


def _frames(root: str, folder: str, split: str, ending: str) -> dict[str, str]:
    """{CITY/FRAME: path} of a split's files with this ending, in rising order."""
    directory = os.path.join(root, folder, split)
    frames = {}
    for city in list_directories(directory):
        for name in sorted(tf.io.gfile.listdir(os.path.join(directory, city))):
            if name.endswith(ending) and not name.startswith("."):
                frames[os.path.join(city, name[: -len(ending)])] = os.path.join(directory, city, name)
    return frames


DATASET = Official(
    title="Cityscapes",
    sizes={"train": 2975, "val": 500, "test": 1525},
    train_split="train",
    val_split="val",
    places=("", "cityscapes"),
    inside="leftImg8bit",
    origin=ORIGIN,
    files="cityscapes",
    kinds=KINDS,
    additions={"test": "Only predictions for the benchmark's server need it. " + ORIGIN},
    list_splits=lambda root: list_directories(os.path.join(root, "leftImg8bit")),
    read=_read,
    images=lambda root, split: (list(_images(root, split).values()), LABELS),
)
