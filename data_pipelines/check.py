"""Says whether the files of a data set are all there and readable, a published one or one's own.

python -m data_pipelines.check --dataset=cityscapes --source=DIR
python -m data_pipelines.check --dataset=folder --source=DIR [--train_split=train] [--val_split=val] ...

Of a published one it counts the files of each split against the official numbers, decodes a sample of each, prints
sizes, ids and the share of each class, and says what is missing, where to get it and where to put it. It ends with
status 1 if files are wrong or not enough to train on; a data set of which only a part is there, but that part whole, is
no error. Of one's own all files are read: see data_pipelines.check_folder.
"""

import argparse
import collections
import dataclasses
import sys

import numpy as np

from data_pipelines import OFFICIAL
from data_pipelines.check_folder import check_folder
from data_pipelines.labels import IGNORE, DataError, LabelSpec, ranges
from data_pipelines.official import Official
from data_pipelines.pictures import Reading
from data_pipelines.records import located
from data_pipelines.sources import FileSource, read_example, read_mask

SAMPLE = 32  # images of a split that are decoded, spread evenly over it


@dataclasses.dataclass
class Sample:
    """What a sample of one split holds.

    sizes: {(width, height): images}; raw_ids: those of the annotations; pixels, images: int64 [K], of each class;
    ignored: share of the pixels; problems: a message for each example that cannot be used.
    """

    count: int
    sizes: collections.Counter
    raw_ids: list[int]
    pixels: np.ndarray
    images: np.ndarray
    ignored: float
    problems: list[str]


def check(dataset: Official, directory: str, write=print) -> int:
    """Writes the findings about `directory`, files or shards, line by line; returns the number of problems."""
    dataset = located(dataset, directory)
    try:
        root = dataset.root(directory)
        there = dataset.list_splits(root)
    except DataError as error:
        write(f"PROBLEM {error}")
        return 1
    write(f"{dataset.title} in {root}")
    problems, samples, part = 0, [], False
    for split, official in dataset.sizes.items():
        if split not in there:
            needed = split not in dataset.additions
            problems += needed
            advice = dataset.additions.get(split, dataset.origin)
            write(f"{'PROBLEM ' if needed else ''}{split}: not there, officially {official} images. {advice}")
            continue
        try:
            (source,), labels = dataset.open(root, [split])
        except DataError as error:
            problems += 1
            write(f"PROBLEM {split}: {error}")
            continue
        part |= len(source) < official
        problems += _describe_count(split, len(source), official, write)
        sample = take_sample(source, labels)
        problems += _describe_sample(sample, labels, write)
        samples.append(sample)
    if samples:
        _describe_classes(samples, labels, write)
    if part:
        write(f"Only a part of {dataset.title} is there. {dataset.origin}")
    write(f"{problems or 'no'} problem{'s' if problems > 1 else ''} found")
    return problems


def take_sample(source: FileSource, labels: LabelSpec, count: int = SAMPLE) -> Sample:
    """Decodes `count` examples of the source, spread evenly over it."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)).tolist()
    sizes, problems = collections.Counter(), []
    raw, train, images = (np.zeros(256, np.int64) for _ in range(3))
    for index in indices:
        try:
            image, label = read_example(source, labels, index)
            mask = read_mask(source, index)
        except DataError as error:
            problems.append(str(error))
            continue
        if mask is not None and mask.pixels.ndim == 2:
            raw += np.bincount(mask.pixels.ravel(), minlength=256)
        sizes[image.shape[1], image.shape[0]] += 1
        found = np.bincount(label.ravel(), minlength=256)
        train += found
        images += found > 0
    classes = labels.num_classes
    ignored = train[IGNORE] / max(train.sum(), 1)
    raw_ids = np.flatnonzero(raw).tolist()
    return Sample(len(indices), sizes, raw_ids, train[:classes], images[:classes], ignored, problems)


def _describe_count(split: str, found: int, official: int, write) -> bool:
    """Whether the number of files is wrong."""
    if found > official:
        write(f"PROBLEM {split}: {found} images, {found - official} more than the official {official}")
    else:
        write(f"{split}: {found} of {official} images" + ("" if found == official else ", a part"))
    return found > official


def _describe_sample(sample: Sample, labels: LabelSpec, write) -> int:
    sizes = [f"{width}x{height} ({count})" for (width, height), count in sample.sizes.most_common(5)]
    more = len(sample.sizes) - len(sizes)
    write(f"    {sample.count} decoded: {', '.join(sizes)}" + (f" and {more} more sizes" if more > 0 else ""))
    ignored = [raw for raw in sample.raw_ids if labels.table[raw] == IGNORE]
    write(f"    ids {ranges(sample.raw_ids)}; ignored {ranges(ignored) or 'none'}: {sample.ignored:.1%} of the pixels")
    for problem in sample.problems:
        write(f"    PROBLEM {problem}")
    return len(sample.problems)


def _describe_classes(samples: list[Sample], labels: LabelSpec, write) -> None:
    pixels, images = (np.sum(counts, axis=0) for counts in zip(*((s.pixels, s.images) for s in samples), strict=True))
    write("class histogram of what was decoded: share of the labelled pixels, images")
    for index in np.argsort(-pixels, kind="stable"):
        if pixels[index]:
            write(f"    {index:3} {labels.names[index]:20} {pixels[index] / pixels.sum():8.3%} {images[index]:5}")
    absent = [name for name, count in zip(labels.names, pixels, strict=True) if not count]
    if absent:
        write(f"    not in the sample: {', '.join(absent)}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="data_pipelines.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", default="folder", choices=("folder", *OFFICIAL))
    parser.add_argument("--source", required=True, help="directory of the data set (published: or of its shards)")
    own = parser.add_argument_group("of --dataset=folder, as config.data's")
    for name, default in (("train_split", "train"), ("val_split", "val"), ("image_dir", "images")):
        own.add_argument(f"--{name}", default=default)
    own.add_argument("--label_dir", default="annotations")
    own.add_argument("--max_pixels", type=int, default=Reading.max_pixels)
    own.add_argument("--image_bits", type=int, default=Reading.image_bits, choices=range(8, 17))
    options = parser.parse_args(argv)
    if options.dataset == "folder":
        given = {name: getattr(options, name) for name in ("image_dir", "label_dir", "max_pixels", "image_bits")}
        return 1 if check_folder(options.source, splits=(options.train_split, options.val_split), **given) else 0
    return 1 if check(OFFICIAL[options.dataset], options.source) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
