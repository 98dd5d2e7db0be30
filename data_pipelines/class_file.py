"""classes.json: what a user says of the ids and colours in the annotation files (docs/labels.md).

{"classes": ["road", "sky"],                 names, in the order of the train ids
 "palette": [[128, 64, 128], [70, 130, 180]], a colour of each: of pictures, and of masks that hold colours
 "ids": [7, [23, 24]],                       the file id of each class, or a list of several; without it 0..K-1
 "ignore": [0, [0, 0, 0]],                   file ids and colours without a class; 255 too, unless it is a class's id
 "ignore_index": 255,                        the same, of one id
 "reduce_zero_label": true,                  short for "ids": [1..K], "ignore": [0]
 "masks": "colours",                         or "ids": what RGB files of equal channels hold, where both are possible
 "palette_in_files": "ignore"}               palettes in palette files are not compared with this one
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.labels import IGNORE, Colours, DataError, LabelSpec, colour_code

KEYS = ("classes", "palette", "ids", "ignore", "ignore_index", "reduce_zero_label", "masks", "palette_in_files")
EXAMPLE = '{"classes": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]], "ids": [1, 2], "ignore": [0, 255]}'


class _Contradiction(ValueError):
    """Two entries that cannot both hold; the message ends with the table that would result."""


def parse(text: str, path: str) -> LabelSpec:
    """The LabelSpec that the text of a classes.json describes.

    Raises DataError naming `path`, what was found and what was expected; for a contradiction with the table that would
    result.
    """
    try:
        content = json.loads(text, object_pairs_hook=_pairs)
        if not isinstance(content, dict):
            raise TypeError(f"it holds {type(content).__name__}, not an object")
        return _spec(content)
    except _Contradiction as error:
        raise DataError(f"{path} contradicts itself: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} cannot be used: {said}. Expected JSON like {EXAMPLE}; docs/labels.md has more"
        ) from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict:
    """json.loads keeps the last of two equal keys; here they are an error."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(map(repr, twice))} is there twice")
    return dict(pairs)


def _spec(content: Mapping) -> LabelSpec:
    names = content["classes"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"'classes' is {names!r}, not a list of names")
    for key in set(content) - set(KEYS):  # one that is misspelt would be without effect; others are notes
        near = [] if key.startswith("_") else difflib.get_close_matches(key, KEYS, 1, 0.8)
        if near:
            raise ValueError(f"{key!r} is no key; did you mean {near[0]!r}? (notes begin with '_')")
    ids = _ids(content, names)
    ignored, ignored_colours = _ignored(content)
    reduce_zero = _choice(content, "reduce_zero_label", (False, True))
    if reduce_zero:
        if "ids" in content and ids != {k + 1: [k] for k in range(len(names))}:
            raise _Contradiction(
                _shown(names, ids, [*ignored, 0], "'reduce_zero_label' means ids 1..K, but 'ids' says otherwise")
            )
        ids, ignored = {k + 1: [k] for k in range(len(names))}, [*ignored, 0]
    if IGNORE not in ids:
        ignored = [*ignored, IGNORE]
    twice = [raw for raw, classes in ids.items() if len(classes) > 1 or raw in ignored]
    if twice:
        what = "one class and ignored" if all(len(ids[raw]) == 1 for raw in twice) else "several classes"
        raise _Contradiction(_shown(names, ids, ignored, f"file ids {sorted(twice)} are of {what}"))
    if len(names) > 254:
        raise ValueError(f"{len(names)} classes; at most 254 can be told apart")
    palette = content.get("palette")
    colours = _colours(content, names, palette, ignored_colours)
    table = {raw: classes[0] for raw, classes in ids.items()}
    return LabelSpec.create(names, palette, table, sorted(set(ignored)), colours=colours)


def _ids(content: Mapping, names: Sequence[str]) -> dict[int, list[int]]:
    """{file id: the classes that claim it}."""
    if "ids" not in content:
        return {k: [k] for k in range(len(names))}
    given = content["ids"]
    if not isinstance(given, list):
        raise TypeError(f"'ids' is {given!r}, not a list")
    ids: dict[int, list[int]] = {}
    for k, entry in enumerate(given):
        for raw in dict.fromkeys(_id(raw, "ids") for raw in (entry if isinstance(entry, list) else [entry])):
            ids.setdefault(raw, []).append(k)
        if entry == []:
            raise ValueError(f"'ids' gives class {k} no id")
    if len(given) != len(names):
        padded = [*names, *(f"(class {k} has no name)" for k in range(len(names), len(given)))]
        raise _Contradiction(
            _shown(
                padded,
                ids,
                [],
                f"'ids' has {len(given)} entries for {len(names)} classes; give one a class",
            )
        )
    return ids


def _ignored(content: Mapping) -> tuple[list[int], list[tuple[int, int, int]]]:
    """File ids and colours without a class, as the file lists them."""
    given = content.get("ignore", [])
    given = given if isinstance(given, list) else [given]
    colours = [_colour(entry, "ignore") for entry in given if isinstance(entry, list)]
    ids = [_id(entry, "ignore") for entry in given if not isinstance(entry, list)]
    if content.get("ignore_index") is not None:
        ids.append(_id(content["ignore_index"], "ignore_index"))
    return ids, colours


def _colours(content: Mapping, names, palette, ignored) -> Colours:
    """What colours mean: nothing without a palette. Colours of two classes are left out: they cannot be read."""
    masks = _choice(content, "masks", ("auto", "ids", "colours"))
    compare = _choice(content, "palette_in_files", ("compare", "ignore")) == "compare"
    if palette is None:
        if ignored or masks == "colours":
            raise ValueError("'ignore' or 'masks' speaks of colours, but there is no 'palette' of the classes")
        return Colours(np.zeros(0, np.int32), np.zeros(0, np.uint8), masks, compare)
    if not isinstance(palette, list) or len(palette) != len(names):
        raise ValueError(f"'palette' must hold {len(names)} colours [r, g, b], one a class; found {palette!r}")
    colours: dict[int, int] = {}
    twice = set()
    for k, entry in enumerate(palette):
        code = colour_code(_colour(entry, "palette"))
        if code in colours:
            twice.add(code)
        colours[code] = k
    for entry in ignored:
        code = colour_code(entry)
        if code in colours and colours[code] != IGNORE:
            raise _Contradiction(f"the colour {list(entry)} is that of {names[colours[code]]!r} and ignored")
        colours[code] = IGNORE
    if twice and masks == "colours":
        raise _Contradiction(
            f"{len(twice)} colours of 'palette' are of two classes: masks of colours cannot be told apart"
        )
    colours = {code: train for code, train in colours.items() if code not in twice}
    codes = np.array(sorted(colours), np.int32)
    return Colours(codes, np.array([colours[code] for code in sorted(colours)], np.uint8), masks, compare)


def _shown(names: Sequence[str], ids: Mapping[int, Sequence[int]], ignored: Sequence[int], what: str) -> str:
    """A contradiction in words, and the table that would result."""
    lines = []
    for raw in sorted({*ids, *ignored}):
        meanings = [names[k] if k < len(names) else f"class {k}" for k in ids.get(raw, ())]
        meanings += ["(ignored)"] if raw in ignored else []
        lines.append(f"    {raw:3}  {' and '.join(meanings)}" + ("   <- two meanings" if len(meanings) > 1 else ""))
    for k, name in enumerate(names):
        if not any(k in classes for classes in ids.values()):
            lines.append(f"      -  {name}   <- no id")
    return (
        f"{what}. The table would be (file id, class):\n"
        + "\n".join(lines)
        + "\nGive every id one meaning (docs/labels.md)."
    )


def _id(value, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
        raise TypeError(f"{key!r} holds {value!r}, not an id in 0..255")
    return value


def _colour(value, key: str) -> tuple[int, int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)
    ):
        raise TypeError(f"{key!r} holds {value!r}, not a colour [r, g, b] in 0..255")
    return tuple(value)


def _choice(content: Mapping, key: str, choices: tuple):
    value = content.get(key, choices[0])
    if not any(value is choice or isinstance(choice, str) and value == choice for choice in choices):
        raise ValueError(f"{key!r} is {json.dumps(value)}, not one of {', '.join(json.dumps(c) for c in choices)}")
    return value
