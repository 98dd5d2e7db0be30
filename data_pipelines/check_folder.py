"""Says what is in a data set of one's own (data.name 'folder'); `python -m data_pipelines.check --source=DIR` runs it.

All files are read: whether images and annotations pair, decode and have one size, which ids they hold and what
classes.json makes of them, and whether one image is in both splits, where it would be trained on and measured with.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines import counts, pictures
from data_pipelines.labels import DataError, LabelError, ranges
from data_pipelines.sources import FolderSource, read_classes

SHOWN = 10  # problems of a kind that are printed


@dataclasses.dataclass
class _Found:
    """What a split holds: {(width, height): images}, {kind: images} of files, {hash of the pixels: paths}, problems."""

    sizes: collections.Counter
    kinds: collections.Counter
    hashes: dict[str, list[str]]
    problems: list[str]


def check_folder(directory: str, write: Callable = print, splits: Sequence[str] = ("train", "val"), **folders) -> int:
    """Writes the findings about a data set line by line; returns the number of problems.

    folders: image_dir, label_dir of FolderSource, and max_pixels, image_bits of config.data.
    """
    reading = {key: folders.pop(key) for key in ("max_pixels", "image_bits") if key in folders}
    problems: list[str] = []

    def problem(message: str) -> None:
        problems.append(message)
        if len(problems) <= 5 * SHOWN:
            write(f"PROBLEM {message}")

    if not os.path.isdir(directory):
        problem(f"{directory} is no directory")
        return len(problems)
    try:
        labels = read_classes(directory)
        write(f"{directory}: {labels.num_classes} classes; file ids mean\n{labels.meanings()}")
    except DataError as error:
        problem(str(error))
        labels = None
    found, counted = {}, {}
    for split in splits:
        try:
            source = FolderSource(directory, split, **folders)
        except DataError as error:
            problem(f"{split}: {error}")
            continue
        source.reading = dataclasses.replace(source.reading, **reading)
        found[split] = _look(source)
        _describe(split, source, found[split], write, problem)
        if labels is not None:
            try:
                counted[split] = counts.count_pixels(source, labels, on_error="skip", most=len(source))
                write(f"    ids {ranges(np.flatnonzero(counted[split].raw)) or 'none (colours)'}")
            except LabelError as error:
                problem(str(error))
    if counted:
        write(counts.table(list(counted.values())))
    if len(counted) == len(splits) == 2:
        train, val = counted.values()
        _say_counts(train, val, labels, write, problem)
    _say_duplicates(found, write, problem)
    write(f"{len(problems) or 'no'} problem{'s' if len(problems) > 1 else ''} found")
    return len(problems)


def _look(source: FolderSource) -> _Found:
    """Decodes every pair of a split, without what the ids mean."""
    found = _Found(collections.Counter(), collections.Counter(), {}, [])

    def look(index: int):
        image_bytes, label_bytes, name = source[index]
        image = pictures.decode_image(image_bytes, name, source.reading)
        mask = pictures.decode_mask(label_bytes, source.label_name(index), source.reading).pixels
        if mask.shape[:2] != image.shape[:2]:
            raise DataError(
                f"{source.label_name(index)}: the annotation is {mask.shape[1]}x{mask.shape[0]}, its image "
                f"{image.shape[1]}x{image.shape[0]} (width x height, upright)"
            )
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        return name, image.shape, pictures.detect(image_bytes), "colours" if mask.ndim == 3 else "ids", digest

    def attempt(index: int):
        try:
            return look(index)
        except DataError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(counts.THREADS) as pool:
        results = pool.map(attempt, range(len(source)))
        for result in counts.progress(results, len(source), source.name, "reading"):
            if isinstance(result, DataError):
                found.problems.append(str(result))
                continue
            name, shape, form, kind, digest = result
            found.sizes[shape[1], shape[0]] += 1
            found.kinds[f"{form} images, masks of {kind}"] += 1
            found.hashes.setdefault(digest, []).append(name)
    return found


def _describe(split: str, source: FolderSource, found: _Found, write: Callable, problem: Callable) -> None:
    write(f"{split}: {len(source)} images with annotations")
    sizes = [f"{width}x{height} ({count})" for (width, height), count in found.sizes.most_common(5)]
    more = len(found.sizes) - len(sizes)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in found.kinds.items())
    write(
        f"    sizes {', '.join(sizes) or 'none'}" + (f" and {more} more" if more > 0 else "") + f"; {kinds or 'none'}"
    )
    for message in found.problems[:SHOWN]:
        problem(message)
    for message in found.problems[SHOWN : SHOWN + 1]:
        problem(f"and {len(found.problems) - SHOWN} more files of {split}, such as: {message}")


def _say_counts(train, val, labels, write: Callable, problem: Callable) -> None:
    try:
        for warning in counts.check_counts(train, val, labels):
            write(f"WARNING {warning}")
    except DataError as error:
        problem(str(error))


def _say_duplicates(found: dict[str, _Found], write: Callable, problem: Callable) -> None:
    """Images of the same pixels, whatever their files: across splits a problem, within one a remark."""
    for split, one in found.items():
        twice = [paths for paths in one.hashes.values() if len(paths) > 1]
        if twice:
            write(f"{split}: {len(twice)} images are there more than once, for example {' and '.join(twice[0][:2])}")
    splits = list(found)
    for k, first in enumerate(splits):
        for second in splits[k + 1 :]:
            both = sorted(found[first].hashes.keys() & found[second].hashes.keys())
            if both:
                pair = f"{found[first].hashes[both[0]][0]} and {found[second].hashes[both[0]][0]}"
                problem(
                    f"{len(both)} images are both in {first} and in {second}, for example {pair}: a network would be "
                    "measured on what it was trained on. Leave each in one split only."
                )
