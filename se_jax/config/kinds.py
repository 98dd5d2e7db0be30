"""A small language of ranges: what a value may be, in words and as a test. `se_jax.config.ranges` has the options'."""

import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 2**31 - 1  # steps, images: what a 32-bit counter holds
MOST_CROP = 2**26  # pixels of a crop: 0.2 GB a picture


class Range(NamedTuple):
    """What a value may be, in words, and whether one is."""

    expected: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Range:
    """A whole number, which True and 2.0 are not."""
    return Range(f"a whole number of {low:,} to {high:,}", lambda value: _is_whole(value) and low <= value <= high)


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    """A finite number. above: low itself is none; below: nor is high."""

    def holds(value) -> bool:
        known = _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
        return known and low <= value <= high and not (above and value == low) and not (below and value == high)

    least, most = "above" if above else "of at least", "below" if below else "at most"
    return Range(f"a number {least} {low:g} and {most} {high:g}", holds)


def one_of(*names: str) -> Range:
    """One of some names."""
    return Range(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def part(*names: str) -> Range:
    """The name of a part: of the library's, or of one that can be imported."""
    known = one_of(*names)
    return Range(
        f"{known.expected}, or 'package.module:attribute' of your own",
        lambda value: known.holds(value) or (isinstance(value, str) and ":" in value),
    )


def several(each: Range, low: int = 0, high: int = 1000, *, distinct: bool = False) -> Range:
    """A sequence of `low` to `high` values. distinct: no two are equal."""

    def holds(value) -> bool:
        return (
            isinstance(value, (tuple, list))
            and low <= len(value) <= high
            and all(map(each.holds, value))
            and not (distinct and len(set(value)) < len(value))
        )

    count = f"{low}" if low == high else f"{low} or more" if high >= 1000 else f"{low} to {high}"
    return Range(f"a sequence of {count}{' different' if distinct else ''} values, each {each.expected}", holds)


def optional(given: Range) -> Range:
    """None, or what else it may be."""
    return Range(f"None or {given.expected}", lambda value: value is None or given.holds(value))


def size(order: str) -> Range:
    """Two sides in pixels."""
    side = whole(1, MOST_CROP)

    def holds(value) -> bool:
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(side.holds, value))
        return pair and value[0] * value[1] <= MOST_CROP

    return Range(f"two positive whole numbers {order} whose product is at most {MOST_CROP:,}", holds)


def span(each: Range) -> Range:
    """Two values, the second no smaller."""
    pair = several(each, 2, 2)
    return Range(
        f"{pair.expected}, the second no smaller than the first",
        lambda value: pair.holds(value) and value[0] <= value[1],
    )


def normalization() -> Range:
    """(mean, std) of every channel."""
    mean, std = several(number(0, 255), 1, MOST_CHANNELS), several(number(0, 255, above=True), 1, MOST_CHANNELS)

    def holds(value) -> bool:
        if not (isinstance(value, (tuple, list)) and len(value) == 2):
            return False
        return mean.holds(value[0]) and std.holds(value[1]) and len(value[0]) == len(value[1])

    return Range("((mean of red, green, blue), (std of red, green, blue)) on the scale of 0 to 255, std above 0", holds)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_multiplier(value) -> bool:
    if not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str)):
        return False
    try:
        re.compile(value[0])
    except re.error:
        return False
    return number(0, 1e6).holds(value[1])


def _is_pattern(value) -> bool:
    return _is_multiplier((value, 1.0))


ANYTHING = Range("anything", lambda value: True)
FLAG = Range("True or False", lambda value: isinstance(value, bool))
TEXT = Range("text", lambda value: isinstance(value, str))
NAMES = Range(
    "names with commas between them, or a sequence of names",
    lambda value: isinstance(value, str) or several(TEXT).holds(value),
)
PATTERN = Range("a regular expression, e.g. '^encoder/'", _is_pattern)
STEPS = whole(1, MOST)
CHANNELS = Range("1, 3 or 4", lambda value: _is_whole(value) and value in (1, 3, 4))
MOST_CHANNELS = 64  # of images
RATE = number(0, 1, below=True)  # of dropped channels or paths
SHARE = number(0, 1)
FACTOR = number(0, 1e6)
WIDTH = whole(1, 16_384)
MULTIPLE = number(0, 100, above=True)  # of a published width or depth
STAGES = 4
INDEX = whole(0, 63)  # of one of the encoder's maps
# (pattern found in the parameter's path, multiplier)
MULTIPLIERS = several(
    Range("(regular expression, number), e.g. ('^decoder/', 10.0), the number of at least 0", _is_multiplier)
)


def of_type(kind) -> Range:
    """The range of a dataclass field of that type: all that is known of the fields of somebody else's part."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return whole(-MOST, MOST)
    if kind is float:
        return number(-1e30, 1e30)
    if kind in (bool, str):
        return FLAG if kind is bool else TEXT
    if kind is tuple or origin is tuple:
        return several(of_type(inner[0])) if len(inner) == 2 and inner[1] is Ellipsis else several(ANYTHING)
    if origin in (typing.Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        return optional(of_type(next(each for each in inner if each is not type(None))))
    return ANYTHING
