"""Writes masks as 8-bit files of ids, their colours looked up exactly in the palette of classes.json.

python -m data_pipelines.convert --source=DIR --output=DIR [--by=colours] [--classes=FILE]

DIR is a data set ('folder': its annotations/ are converted) or any folder of masks, below one that holds classes.json.
Every mask becomes a grey PNG of the ids that classes.json gives the classes, so the same classes.json describes the
result; a colour that it does not know is an error, and then nothing is written. --by=colours looks up the colours of
palette files too, where their indices were given file by file.
"""

import argparse
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

from data_pipelines import pictures
from data_pipelines.class_file import parse
from data_pipelines.labels import IGNORE, DataError, LabelSpec
from data_pipelines.pairing import LABEL_ENDINGS, entries
from data_pipelines.pictures import MOST_PIXELS, Reading, read_bytes

CLASSES = "classes.json"
READING = Reading(max_pixels=MOST_PIXELS, formats=pictures.FILES)


def convert(source: str, output: str, classes: str | None = None, by: str = "file") -> tuple[int, str]:
    """Converts every PNG below `source` to `output`, sub-folders and names kept.

    Args:
      source: a data set with classes.json, of which annotations/ is converted, or a folder of masks.
      output: a directory that does not exist yet.
      classes: path of classes.json; by default the nearest one at or above `source`.
      by: 'file': ids of grey and palette files stay what they are; 'colours': those of palette files are looked up.

    Returns:
      (number of masks, the directory in which they are).

    Raises:
      DataError: a colour or an id that means nothing, a file that cannot be read, no mask, or `output` is there; names
        the file. Nothing is left in `output` then.
    """
    place, target = pathlib.Path(source), pathlib.Path(os.path.abspath(output))
    if not place.is_dir():
        raise DataError(f"--source={source} is no directory; expected a data set with {CLASSES}, or a folder of masks")
    if target.exists():
        raise DataError(f"--output={output} exists; give a new directory")
    path = pathlib.Path(classes) if classes else _nearest(place)
    labels = parse(read_bytes(str(path)).decode(errors="replace"), str(path))
    masks = place / "annotations" if (place / CLASSES).exists() and (place / "annotations").is_dir() else place
    names = sorted(name for name in entries(str(masks), True) if name.lower().endswith(LABEL_ENDINGS))
    if not names:
        raise DataError(f"{masks} holds no mask ({', '.join(LABEL_ENDINGS)}; sub-folders were looked through)")
    back = _back(labels)
    beside = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for number, name in enumerate(names, 1):
            ids = _ids(masks / name, labels, back, by)
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save((beside / name).with_suffix(".png"))
            if sys.stderr.isatty():
                print(f"\r{number}/{len(names)} masks", end="", file=sys.stderr, flush=True)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(names), str(target)


def _nearest(place: pathlib.Path) -> pathlib.Path:
    """The classes.json in a directory or in one of the three above it."""
    absolute = pathlib.Path(os.path.abspath(place))
    for directory in (absolute, *absolute.parents[:3]):
        if (directory / CLASSES).is_file():
            return directory / CLASSES
    raise DataError(f"no {CLASSES} in {place} or the three directories above it; name one by --classes")


def _back(labels: LabelSpec) -> np.ndarray:
    """uint8 [256]: train id -> the id that the files get; the lowest of each class, and of those that are ignored.

    Where no id is ignored, because 255 is a class, IGNORE has none and stays 255: see `_ids`.
    """
    back = np.full(256, IGNORE, np.uint8)
    ids = labels.file_ids()
    back[: len(ids)] = ids
    ignored = np.flatnonzero(labels.table == IGNORE)
    back[IGNORE] = IGNORE if IGNORE in ignored or not len(ignored) else ignored[0]
    return back


def _ids(path: pathlib.Path, labels: LabelSpec, back: np.ndarray, by: str) -> np.ndarray:
    mask = pictures.decode_mask(read_bytes(str(path)), str(path), READING)
    pixels, palette = mask.pixels, mask.palette
    if by == "colours" and palette is not None:
        if pixels.max() >= len(palette):
            raise DataError(
                f"{path}: the annotation holds the index {pixels.max()}, its palette {len(palette)} colours"
            )
        pixels, palette = palette[pixels], None
    if pixels.ndim == 2:
        labels.read(pixels, str(path), palette)  # ids that mean nothing, or a palette that contradicts, are errors
        return pixels
    train = labels.read(pixels, str(path))
    if (train == IGNORE).any() and labels.table[back[IGNORE]] != IGNORE:
        raise DataError(
            f'{path}: it has ignored colours, but classes.json ignores no id: add a free one to "ignore", e.g. '
            f"{next(k for k in range(256) if labels.table[k] not in range(labels.num_classes))}."
        )
    return back[train]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="data_pipelines.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", required=True, help="a data set with classes.json, or a folder of masks")
    parser.add_argument("--output", required=True, help="a new directory for the masks of ids")
    parser.add_argument("--classes", help="path of classes.json; by default the nearest at or above the source")
    parser.add_argument("--by", choices=("file", "colours"), default="file", help="colours: of palette files too")
    options = parser.parse_args(argv)
    try:
        count, place = convert(options.source, options.output, options.classes, options.by)
    except (DataError, OSError) as error:
        sys.exit(f"data_pipelines.convert: {error}")
    print(
        f"{count} masks of ids are in {place}; --config.data.label_dir={place} trains on them, with the same {CLASSES}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
