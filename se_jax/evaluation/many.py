"""Predictions for many images of many sizes: in batches of one size, with network inputs of few sizes.

Each new size of the network's input costs a compilation, which takes as long as many images. So sizes are rounded up,
and the next one compiles in the background while the devices work on this one. Images are resized to the network's
input by one bilinear resize, and the logits back, so that no pixel is padding.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

MULTIPLE = 32  # pixels: the output stride of most encoders
MOST = 12  # sizes for one set of images
FILLED = 1.25  # places at most, in the batches of an input size, for every image

Size = tuple[int, int]  # (height, width)


def rounded(size: Size, multiple: int = MULTIPLE) -> Size:
    """The size with both sides rounded up to a multiple."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def few(sizes: Iterable[Size], multiple: int = MULTIPLE, most: int = MOST) -> Mapping[Size, Size]:
    """{size: the size of its network input}, at most `most` different ones, for images of these sizes.

    Sides are rounded up to the multiple. While there are too many, the two sizes that cost the fewest additional pixels
    become one that holds both.

    Args:
      sizes: (height, width) of every image, equal ones as often as they come.
    """
    given = list(sizes)
    goal = {size: rounded(size, multiple) for size in given}
    counts: dict[Size, int] = {}
    for size in given:
        counts[goal[size]] = counts.get(goal[size], 0) + 1
    while len(counts) > most:
        inputs, images = np.array(list(counts)), np.array(list(counts.values()))
        union = np.maximum(inputs[:, None], inputs[None]).prod(axis=-1)
        added = images[:, None] * (union - inputs.prod(axis=-1)[:, None])
        cost = (added + added.T).astype(float)
        np.fill_diagonal(cost, np.inf)
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        pair = [(int(height), int(width)) for height, width in (inputs[i], inputs[j])]
        joined = max(pair[0][0], pair[1][0]), max(pair[0][1], pair[1][1])
        goal = {size: joined if now in pair else now for size, now in goal.items()}
        together = sum(counts.pop(each) for each in pair)
        counts[joined] = counts.get(joined, 0) + together
    return goal


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images of one size that go through the network together.

    indices: of the images. size: theirs, None where it is not known before they are read. goal: the size of the
    network's input, None where that follows from `size`. places: of the batch; those without an image are filled up.
    """

    indices: tuple[int, ...]
    size: Size | None
    goal: Size | None
    places: int

    @property
    def program(self):
        """What is compiled anew where it differs."""
        return self.goal or self.size, self.places


def plan(sizes: Sequence[Size | None], goals: Mapping[Size, Size], batch_size: int) -> list[Batch]:
    """Batches for images of these sizes, those of one network input one after the other, the largest input first.

    All batches of an input have the same number of places, the highest power of two up to `batch_size` that leaves few
    of them to fillers. Images of unknown size come last, each alone.

    Args:
      goals: {size: size of the network's input}; empty where the network sees the images' own sizes.
    """
    groups: dict[Size, dict[Size, list[int]]] = {}
    for index, size in enumerate(sizes):
        if size is not None:
            groups.setdefault(goals.get(size, size), {}).setdefault(size, []).append(index)
    found = []
    for goal in sorted(groups, key=lambda goal: -goal[0] * goal[1]):
        members = groups[goal]
        lengths = list(map(len, members.values()))
        places = 1
        while 2 * places <= batch_size and _filled(lengths, 2 * places) <= FILLED * sum(lengths):
            places *= 2
        for size, indices in members.items():
            parts = (indices[start : start + places] for start in range(0, len(indices), places))
            found += [Batch(tuple(part), size, goals.get(size), places) for part in parts]
    return found + [Batch((index,), None, None, 1) for index, size in enumerate(sizes) if size is None]


def _filled(lengths: Iterable[int], places: int) -> int:
    return sum(-(-length // places) * places for length in lengths)


def predicted(
    batches: Sequence[Batch],
    load: Callable[[int], np.ndarray],
    predict: Callable[[np.ndarray, Size | None], Any],
    channels: int = 3,
) -> Iterator[tuple[int, np.ndarray | None, Any]]:
    """(index, image, result) of every image, in the order of the batches.

    The result is the error, and the image None, where `load` raises ValueError for it; it is a MemoryError where the
    image does not fit into the devices' memory even alone.

    Args:
      load: index -> uint8 [h, w, 3].
      predict: (uint8 [b, h, w, 3], size of the network's input or None) -> a sequence of b results.
    """
    with concurrent.futures.ThreadPoolExecutor(1, "compile") as background:
        waiting: dict[Any, concurrent.futures.Future] = {}
        for place, batch in enumerate(batches):
            coming = next((each for each in batches[place + 1 :] if each.program != batch.program), None)
            if coming is not None and coming.size is not None and coming.program not in waiting:
                blank = np.zeros((coming.places, *coming.size, channels), np.uint8)
                waiting[coming.program] = background.submit(predict, blank, coming.goal)
            if batch.program in waiting:
                concurrent.futures.wait([waiting[batch.program]])  # what fails there fails here too, and is told
            yield from _one(batch, load, predict)


def _one(batch: Batch, load, predict) -> Iterator[tuple[int, np.ndarray | None, Any]]:
    images: dict[int, np.ndarray] = {}
    for index in batch.indices:
        try:
            images[index] = load(index)
        except ValueError as error:
            yield index, None, error
    alike = len({image.shape for image in images.values()}) == 1  # as their headers said
    groups = [(list(images), batch.places)] if alike else [([index], 1) for index in images]
    while groups:
        group, places = groups.pop(0)
        stack = np.stack([images[index] for index in group] + [images[group[-1]]] * (places - len(group)))
        try:
            results = predict(stack, batch.goal)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if places > 1:
                groups = [([index], 1) for index in group]
            else:
                yield group[0], None, MemoryError(str(error))
            continue
        yield from ((index, images[index], result) for index, result in zip(group, results, strict=False))
