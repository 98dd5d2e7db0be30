"""Miniature data sets in the layouts of the published ones; their pictures are noise."""

import numpy as np
from PIL import Image

from data_pipelines import voc2012

HEIGHT, WIDTH = 12, 16


def write_image(path, seed=0, size=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_mask(path, ids, palette=None, size=(HEIGHT, WIDTH)):
    """A mask of vertical stripes of `ids`, grey or with a palette [[r, g, b], ...]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.resize(np.repeat(ids, -(-size[1] // len(ids))), size[1])
    image = Image.fromarray(np.broadcast_to(stripes, size).astype(np.uint8))
    if palette is not None:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(np.ravel(palette).tolist())
    image.save(path)


def write_ade20k(root, train=3, val=2):
    root = root / "ADEChallengeData2016"
    for split, prefix, count in (("training", "train", train), ("validation", "val", val)):
        for k in range(1, count + 1):
            write_image(root / "images" / split / f"ADE_{prefix}_{k:08}.jpg", k)
            write_mask(root / "annotations" / split / f"ADE_{prefix}_{k:08}.png", [0, 1, k, 150])
    return root


VOC_PALETTE = np.concatenate([voc2012.LABELS.palette, np.zeros((234, 3), int), [[224, 224, 192]]])


def write_voc2012(root):
    """Train a, b; val c; trainaug d, b, a, of which only d and b have masks of SBD, whose ids are shifted by one."""
    root = root / "VOCdevkit" / "VOC2012"
    for k, name in enumerate(("a", "b", "c", "d")):
        write_image(root / "JPEGImages" / f"2007_{name}.jpg", k)
    for k, name in enumerate(("a", "b", "c")):
        write_mask(root / "SegmentationClass" / f"2007_{name}.png", [0, k + 1, 255], VOC_PALETTE)
    for name, ids in (("d", [0, 20]), ("b", [0, 3])):
        write_mask(root / "SegmentationClassAug" / f"2007_{name}.png", ids)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "ab"), ("val", "c"), ("trainaug", "dba")):
        lines = "".join(f"2007_{name}\n" for name in names)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)
    return root


def write_cityscapes(root, kinds=("labelIds",), splits=("train", "val"), cities=(("a", 2), ("b", 1))):
    """`cities`: the name of each and the number of its frames, the same in every split."""
    root = root / "cityscapes"
    ids = {"labelIds": [1, 7, 23, 33], "labelTrainIds": [255, 0, 10, 18], "instanceIds": [1, 7]}
    for split in splits:
        for city, count in cities:
            for k in range(count):
                frame = f"{city}_{k:06}_000019"
                write_image(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", k)
                for kind in (*kinds, "instanceIds"):
                    write_mask(root / "gtFine" / split / city / f"{frame}_gtFine_{kind}.png", ids[kind])
    return root


def write_pascal_context(root):
    root = root / "VOCdevkit" / "VOC2010"
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    for k, split in enumerate(("train", "val")):
        write_image(root / "JPEGImages" / f"2008_{k}.jpg", k)
        write_mask(root / "SegmentationClassContext" / f"2008_{k}.png", [0, 1, 59])
        (lists / f"{split}.txt").write_text(f"2008_{k}\n")
    return root


def read_only(root):
    """Takes away every right to write; gives a function that restores them."""
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return lambda: [path.chmod(0o755) for path in paths]
