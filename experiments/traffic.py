"""What a TPU's program moves between the chip's large memory (HBM) and the chip, read from its text.

The compiler's own count (`bytes accessed`) is another thing: it has all that operations read and write, wherever that
lies. A v5e keeps many of a network's maps in the 128 MiB of the chip itself (`S(1)` in a layout), where they cost next
to nothing, and a copy from one memory to the other counts several times there.
"""

import re

from experiments.collectives import ARRAY, array_bytes

LINE = re.compile(
    r"^\s+(?:ROOT )?(?P<name>%[\w.-]+) = (?P<result>.*?) (?P<operation>[a-z][\w-]*)\((?P<operands>[^)]*)\)(?P<rest>.*)"
)
HEAD = re.compile(r"^(?P<main>ENTRY )?(?P<name>%[\w.-]+) .*\{$")
NAME = re.compile(r"%[\w.-]+")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # in a layout
CONTROL = ("while", "conditional", "call")  # what they run is counted in its own computation
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", *CONTROL)


def hbm_bytes(program: str) -> int:
    """Bytes that one chip reads from and writes to HBM in a run of the program (`compiled.as_text()`).

    What is in a loop counts once. An operation that reads a part of an array counts with all of it.
    """
    computations, main = _computations(program)
    total, waiting, seen = 0, [main], set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        total += _moved(computations[name])
        for line in computations[name]:
            if line["operation"] in CONTROL:
                waiting += [called for called in NAME.findall(line["rest"]) if called in computations]
    return total


def _computations(program: str) -> tuple[dict[str, list[re.Match]], str]:
    """({name of a computation: its lines}, name of the main one)."""
    found, main, lines = {}, "", []
    for text in program.splitlines():
        if head := HEAD.match(text):
            lines = found[head["name"]] = []
            main = head["name"] if head["main"] else main
        elif line := LINE.match(text):
            lines.append(line)
    return found, main


def _moved(lines: list[re.Match]) -> int:
    arrays, total = {}, 0
    for line in lines:
        # (bytes, of which in HBM) of every array of the result
        result = [
            (size := array_bytes(each), 0 if ON_CHIP.search(each["layout"] or "") else size)
            for each in ARRAY.finditer(line["result"])
        ]
        arrays[line["name"]], operation = result, line["operation"]
        if operation in ("copy-start", "slice-start"):  # (source, target, ...): what arrives left its source, too
            (_, source), (size, target) = result[:2]
            total += target + (size if source else 0)
        elif operation not in FREE and not operation.endswith("-done"):
            operands = [array for name in NAME.findall(line["operands"]) for array in arrays.get(name, ())]
            total += sum(in_hbm for _, in_hbm in operands + result)
    return total
