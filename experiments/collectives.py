"""What devices exchange in a compiled program, read from its text (`compiled.as_text()`)."""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "bf16": 2}  # others are named by their bits
# `%name = f32[2,8]{1,0} all-reduce(...)`, `%name = (f32[8]{0}, f32[8]{0}) all-reduce-start(...)`
LINE = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
ARRAY = re.compile(r"\b(?P<type>pred|bf16|[a-z]+?(?P<bits>\d+)\w*)\[(?P<sides>[\d,]*)\](?P<layout>\{[^}]*\})?")


class Exchange(NamedTuple):
    """One collective operation: its kind, and the bytes of each array that a device has behind it."""

    kind: str
    arrays: tuple[int, ...]


def exchanges(program: str) -> list[Exchange]:
    """All collective operations of a compiled program, one of several arrays as one; loops are counted once."""
    found = []
    for match in LINE.finditer(program):
        arrays = tuple(array_bytes(array) for array in ARRAY.finditer(match["result"]))
        if match["start"] and match["kind"] != "all-reduce":  # (operands, results, ...); results are as many
            arrays = arrays[len(arrays) // 2 :] if len(arrays) > 1 else arrays
        found.append(Exchange(match["kind"], arrays))
    return found


def array_bytes(array: re.Match) -> int:
    """Of a match of ARRAY, e.g. 'f32[2,8]{1,0}', without padding."""
    sides = [int(side) for side in array["sides"].split(",") if side]
    return math.prod(sides) * (BYTES.get(array["type"]) or max(int(array["bits"]) // 8, 1))


def by_kind(found: list[Exchange]) -> dict[str, dict[str, int]]:
    """{kind: {'count': operations, 'bytes': of all their results}}."""
    counts, volumes = collections.Counter(), collections.Counter()
    for exchange in found:
        counts[exchange.kind] += 1
        volumes[exchange.kind] += sum(exchange.arrays)
    return {kind: {"count": counts[kind], "bytes": volumes[kind]} for kind in counts}
