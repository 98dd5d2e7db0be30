"""What an evaluation will have to compile, told before it starts, with what would cost less.

XLA compiles the network once for every size of its input: on an accelerator that is minutes for each.
"""

import dataclasses
import math
from collections.abc import Iterable

from se_jax.evaluation.protocol import Protocol

MANY = 8  # networks, above which cheaper protocols are told
MULTIPLE = 64  # pixels


def windows(protocol: Protocol, sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Distinct sizes (h, w) of what the network sees of images of these sizes, in the order in which they come."""
    found = {}
    for size in dict.fromkeys(sizes):
        for view in protocol.views(size):
            found[tuple(protocol.windows(length, axis)[0] for axis, length in enumerate(view.size))] = None
    return list(found)


def announcement(protocol: Protocol, sizes: list[tuple[int, int]], size_multiple: int = 1, known=()) -> str:
    """How many networks are compiled for images of these sizes, in words.

    size_multiple: of the model. known: window sizes that are compiled already.
    """
    shapes, wanted = len(set(sizes)), windows(protocol, sizes)
    count = len([window for window in wanted if window not in known])
    told = f"{len(sizes)} images of {shapes} sizes: {count} networks to compile"
    if count <= MANY:
        return told
    cheaper = []
    if protocol.mode == "whole" and protocol.scale is not None:
        side = min(protocol.scale) // size_multiple * size_multiple
        slide = dataclasses.replace(protocol, mode="slide", window=(side, side), stride=(side * 2 // 3,) * 2)
        options = f"eval.mode='slide', eval.window={slide.window}, eval.stride={slide.stride}"
        cheaper.append((len(windows(slide, sizes)), options))
    multiple = math.lcm(MULTIPLE, size_multiple)
    if protocol.mode == "whole" and protocol.size_multiple % multiple:
        rounded = dataclasses.replace(protocol, size_multiple=multiple)
        cheaper.append((len(windows(rounded, sizes)), f"eval.size_multiple={multiple}"))
    ways = [f"{options} needs {number}" for number, options in cheaper if number < count]
    return told + (f" ({'; '.join(ways)}; neither gives this protocol's numbers)" if ways else "")
