"""Pixels of every class, counted before anything is trained on them.

A class that no pixel shows cannot be learned, and masks whose ids mean something else than classes.json says look like
a perfect network: what is ignored cannot be wrong. Both are seen in the counts.
"""

import concurrent.futures
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec
from data_pipelines.sources import Source, read_mask

ALL = 1000  # annotations of a split that are counted whole
SAMPLE = 500  # of a larger split, spread evenly over it
THREADS = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Pixels of the annotations of one split.

    name: of the source. files, total: annotations counted, and all there are. names: of the K classes.
    pixels, images: int64 [K], pixels of each class, and annotations that hold it. ignored: pixels without a class.
    raw: int64 [256], pixels by their id in the file (those of colour masks, which have none, are left out).
    held: bool [n, K], which classes each annotation holds, of those looked at; none of one that could not be read.
    """

    name: str
    files: int
    total: int
    names: tuple[str, ...]
    pixels: np.ndarray
    images: np.ndarray
    ignored: int
    raw: np.ndarray
    held: np.ndarray

    @property
    def absent(self) -> list[str]:
        """Names of the classes without a pixel."""
        return [name for name, count in zip(self.names, self.pixels, strict=True) if not count]

    @property
    def looked_at(self) -> str:
        return f"all {self.total}" if self.files == self.total else f"{self.files} of {self.total}"


@dataclasses.dataclass(frozen=True)
class _One:
    """Of one annotation: pixels by train id and by id in the file, [256] each, and its palette."""

    train: np.ndarray
    raw: np.ndarray
    palette: np.ndarray | None


def count_pixels(source: Source, labels: LabelSpec, on_error: str = "stop", most: int | None = None) -> Counts:
    """Counts the classes in all annotations of a small source, or in a sample of a large one.

    Progress goes to stderr. most: how many annotations, spread evenly; by default all of up to ALL, else SAMPLE. A
    sample that shows fewer than two classes is followed by all.

    Raises LabelError naming the first file with an id outside the table, and the ids of all files; DataError for a file
    that cannot be read, unless on_error is 'skip' (the pipeline counts those when it meets them), and where palettes of
    two files give one id two colours.
    """
    total = len(source)
    wanted = min(total, most or (ALL if total <= ALL else SAMPLE))
    found = _count(source, labels, _spread(total, wanted), on_error)
    if most is None and found.files < total and np.count_nonzero(found.pixels) < 2:
        found = _count(source, labels, range(total), on_error)
    return found


def check_counts(train: Counts, val: Counts, labels: LabelSpec) -> list[str]:
    """Warnings about classes without a pixel, one a split.

    Raises DataError if there is nothing to learn from: no labelled pixel, or one class only; or nothing to measure.
    """
    held = np.count_nonzero(train.pixels)
    if held < 2:
        only = "no pixel of any class" if not held else f"one class only, {train.names[int(train.pixels.argmax())]!r}"
        raise DataError(
            f"{train.name}: the masks hold {only}, beside {train.ignored:,} ignored pixels, in {train.looked_at} "
            f"files: there is nothing to learn. {_held(train, labels)}{suggestion(train)}"
        )
    if not val.pixels.any():
        raise DataError(
            f"{val.name}: the masks hold no pixel of any class in {val.looked_at} files, so nothing can be measured. "
            f"{_held(val, labels)}{suggestion(val)}"
        )
    warnings = []
    for counts, what in ((train, "nothing of that kind can be learned"), (val, "means leave them out")):
        if absent := counts.absent:
            shown = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
            warnings.append(
                f"{counts.name}: no pixel of {len(absent)} of {len(counts.names)} classes in {counts.looked_at} "
                f"annotations: {shown}; {what}" + _unused(counts, labels)
            )
    return warnings


def table(counts: Sequence[Counts]) -> str:
    """The counts of splits side by side as text: share of the labelled pixels, and annotations that hold the class."""
    width = max(len(name) for name in (*counts[0].names, "(ignored, of all)"))
    head = "".join(f"  {_split(c.name) + ' %':>12}  {'files':>6}" for c in counts)
    lines = [f"{'pixels of':<{width}}{head}", "-" * (width + 22 * len(counts))]
    for k, name in enumerate(counts[0].names):
        cells = "".join(f"  {_share(c.pixels[k], c.pixels.sum()):>12}  {c.images[k]:>6}" for c in counts)
        absent = "   <- none" if any(not c.pixels[k] for c in counts) else ""
        lines.append(f"{name:<{width}}{cells}{absent}")
    cells = "".join(f"  {_share(c.ignored, c.pixels.sum() + c.ignored):>12}  {'':>6}" for c in counts)
    lines.append(f"{'(ignored, of all)':<{width}}{cells}")
    return "\n".join([*lines, "counted: " + "; ".join(f"{_split(c.name)}: {c.looked_at} annotations" for c in counts)])


def suggestion(counts: Counts) -> str:
    """What to write in classes.json, guessed from the ids that the masks hold."""
    names, ids = list(counts.names), np.flatnonzero(counts.raw).tolist()
    if len(names) == 1 and len(ids) == 2:
        background = int(counts.raw.argmax())
        other = next(raw for raw in ids if raw != background)
        return (
            "A single class has no other to be told from: name the background as a class too, for example "
            f'{{"classes": ["background", "{names[0]}"], "ids": [{background}, {other}]}} (or the ids the other way '
            "round), and set model.num_classes=2."
        )
    if len(names) == 1:
        return (
            "A single class has no other to be told from: name the background as a class too, "
            f'{{"classes": ["background", "{names[0]}"], "ids": [..., ...]}} with the ids that the masks hold, and set '
            "model.num_classes=2."
        )
    if len(ids) == len(names):
        return f'If each of these ids is a class, in this order, write in classes.json: "ids": {ids}.'
    if len(ids) == len(names) + 1 and ids[0] == 0:
        return f'If 0 means no data, write in classes.json: "ids": {ids[1:]}, "ignore": [0].'
    return (
        'Write in classes.json which id is which class: "ids" (one a class, or a list of several), and "ignore" for '
        "those without one (docs/labels.md)."
    )


def _unused(counts: Counts, labels: LabelSpec) -> str:
    """A remark on ignored ids where there are as many ids as classes, such as 0, 1 and 255 for three."""
    ids = np.flatnonzero(counts.raw).tolist()
    ignored = [raw for raw in ids if labels.table[raw] == IGNORE]
    if not ignored or len(ids) != len(counts.names):
        return ""
    held = ", ".join(f"{raw} ({_share(counts.raw[raw], counts.raw.sum())} %)" for raw in ignored)
    return f'. Ignored ids are {held}: if that is a class, write in classes.json: "ids": {ids}'


def _spread(total: int, wanted: int) -> list[int]:
    return np.unique(np.linspace(0, total - 1, wanted).round().astype(int)).tolist() if wanted else []


def _count(source: Source, labels: LabelSpec, indices: Sequence[int], on_error: str) -> Counts:
    train, raw = np.zeros(256, np.int64), np.zeros(256, np.int64)
    held = np.zeros((len(indices), labels.num_classes), bool)
    files, wrong, palettes = 0, None, {}
    each = progress(_each(source, labels, indices), len(indices), source.name)
    for index, one, row in zip(indices, each, held, strict=True):
        if isinstance(one, LabelError) and not isinstance(one, _Unknown):
            raise one
        if isinstance(one, _Unknown):
            wrong, one = wrong or one, one.counted
        elif isinstance(one, DataError):
            if on_error == "stop":
                raise one
            continue
        files += 1
        train, raw = train + one.train, raw + one.raw
        row[:] = one.train[: labels.num_classes] > 0
        if one.palette is not None and labels.colours is not None and labels.colours.compare:
            _same_colours(palettes, one, source.label_name(index), labels)
    classes, ignored = labels.num_classes, int(train[IGNORE])
    images = held.sum(axis=0)
    counts = Counts(source.name, files, len(source), labels.names, train[:classes], images, ignored, raw, held)
    if wrong is not None:
        advice = f". {suggestion(counts)}" if labels.colours is not None else ""  # published data sets have their own
        raise LabelError(f"{wrong}\nIn {files} masks of {source.name} together: {_ids_held(raw)}{advice}") from wrong
    return counts


class _Unknown(LabelError):
    """Ids outside the table; counted: the annotation's counts, without train ids."""

    def __init__(self, message: str, counted: _One):
        super().__init__(message)
        self.counted = counted


def _each(source: Source, labels: LabelSpec, indices: Sequence[int]) -> Iterable[_One | DataError]:
    """Of each annotation its counts, or the error that it gives, in order; read by several threads."""

    def one(index: int) -> _One | DataError:
        nothing = np.zeros(256, np.int64)
        try:
            mask = read_mask(source, index)
        except DataError as error:
            return error
        if mask is None:
            return _One(nothing, nothing, None)
        raw = np.bincount(mask.pixels.ravel(), minlength=256) if mask.pixels.ndim == 2 else nothing
        try:
            train = labels.read(mask.pixels, source.label_name(index), mask.palette)
        except LabelError as error:
            return _Unknown(str(error), _One(nothing, raw, None))
        except DataError as error:
            return _Wrong(str(error))
        return _One(np.bincount(train.ravel(), minlength=256), raw, mask.palette)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(one, indices)
        finally:
            pool.shutdown(cancel_futures=True)


class _Wrong(LabelError):
    """Colours that classes.json does not know, or a palette that contradicts it: never skipped, as unknown ids are."""


def _same_colours(palettes: dict, one: _One, name: str, labels: LabelSpec) -> None:
    """DataError if an id that is a class has another colour in this palette file than in one before."""
    if one.palette is None or (one.palette == np.arange(len(one.palette))[:, None]).all():
        return  # a ramp: its colours are the ids
    for raw in np.flatnonzero(one.raw[: len(one.palette)]):
        if labels.table[raw] >= labels.num_classes:
            continue
        colour = tuple(one.palette[raw].tolist())
        before, first = palettes.setdefault(int(raw), (colour, name))
        if before != colour:
            raise LabelError(
                f"{name}: id {raw} is {colour} in this file's palette, but {before} in that of {first}: palettes were "
                'made file by file, so ids may mean another class in each. Give every class its colour by "palette" in '
                "classes.json and write the masks anew by their colours (python -m data_pipelines.convert "
                '--by=colours); or, if the ids are right, write "palette_in_files": "ignore".'
            )


def _held(counts: Counts, labels: LabelSpec) -> str:
    if not counts.raw.any():
        return ""
    return f"They hold the ids {_ids_held(counts.raw)}; classes.json says\n{labels.meanings()}\n"


def _ids_held(raw: np.ndarray, most: int = 20) -> str:
    """Ids and their shares of the pixels as text."""
    ids = np.flatnonzero(raw)
    held = ", ".join(f"{k} ({_share(int(raw[k]), int(raw.sum()))} %)" for k in ids[:most])
    return held + (f" and {len(ids) - most} more ids" if len(ids) > most else "")


def progress(found: Iterable, total: int, name: str, doing: str = "counting pixels of") -> Iterable:
    """Passes on what it is given; from two seconds on it says how far it is."""
    said = begun = time.monotonic()
    shown = False
    for k, one in enumerate(found, 1):
        now = time.monotonic()
        if now - begun > 2 and now - said > (0.5 if sys.stderr.isatty() else 10):
            said, shown = now, True
            end = "" if sys.stderr.isatty() else "\n"
            print(f"\r{doing} {name}: {k} of {total} annotations", end=end, file=sys.stderr, flush=True)
        yield one
    if shown and sys.stderr.isatty():
        print(file=sys.stderr)


def _share(part: int, whole: int) -> str:
    """A share in percent; never 0.000 for what is there."""
    if not part:
        return "0"
    return f"{100 * part / whole:.3f}" if part / whole >= 1e-5 else "<0.001"


def _split(name: str) -> str:
    """'DIR (train)' -> 'train'."""
    return name[name.rfind("(") + 1 : -1] if name.endswith(")") else name
