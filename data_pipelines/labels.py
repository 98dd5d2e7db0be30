"""Class names, colours and the table from the ids in annotation files to the ids the network is trained on."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

IGNORE = 255  # train id of pixels that count neither in the loss nor in the metric
UNKNOWN = 254  # table entry of a raw id that must not occur in an annotation
ADVICE = "Add the classes to classes.json, or set these pixels to the ignored id."


class DataError(ValueError):
    """A data set, or one of its files, is not as it has to be; the message names the file and says what to do."""


class LabelError(DataError):
    """An annotation holds an id that the label table does not know. Never skipped: the table is wrong, not the file."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSpec:
    """What the pixels of a data set's annotations mean.

    names: K class names, in the order of their train ids.
    palette: uint8 [K, 3], RGB colour of each class.
    table: uint8 [256], raw id -> train id 0..K-1; IGNORE (255) for ignored ids, UNKNOWN (254) for ids not allowed.
    advice: what messages say is to be done about an annotation that is not of this kind.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    table: np.ndarray
    advice: str = ADVICE

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | np.ndarray | None = None,
        ids: Mapping[int, int] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        advice: str = ADVICE,
    ) -> "LabelSpec":
        """Makes the table from `ids` {raw id: train id} (default: 0..K-1 as they are) and the `ignore`d raw ids.

        Without a palette, colours are drawn from VOC's colour map. Raises DataError if the parts do not agree.
        """
        names = tuple(names)
        if not 1 <= len(names) <= UNKNOWN:
            raise DataError(f"a data set needs 1 to {UNKNOWN} classes, found {len(names)}")
        if len(set(names)) != len(names):
            raise DataError(f"class names must differ, found {sorted({n for n in names if names.count(n) > 1})} twice")
        colours = voc_colours(len(names)) if palette is None else np.asarray(palette)
        if (
            colours.shape != (len(names), 3)
            or colours.dtype.kind not in "iu"
            or colours.min() < 0
            or colours.max() > 255
        ):
            raise DataError(
                f"the palette must hold {len(names)} colours [r, g, b] in 0..255, one a class; found {colours.tolist()}"
            )
        ids = {k: k for k in range(len(names))} if ids is None else ids
        table = np.full(256, UNKNOWN, np.uint8)
        for raw, train in ids.items():
            if not (0 <= raw <= 255 and 0 <= train < len(names)):
                raise DataError(f"id {raw} -> {train}: raw ids are 0..255, train ids 0..{len(names) - 1}")
            table[raw] = train
        table[list(ignore)] = IGNORE
        return cls(names, colours.astype(np.uint8), table, advice)

    @classmethod
    def from_json(cls, text: str, path: str) -> "LabelSpec":
        """Reads a classes.json: {"classes": [names], "palette": [[r, g, b], ...], "ignore_index": 255}.

        Only the names are needed. Raises DataError naming `path` if the content is not like this.
        """
        try:
            content = json.loads(text)
            names, palette, ignore = content["classes"], content.get("palette"), content.get("ignore_index", IGNORE)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("'classes' is not a list of names")
            if not isinstance(ignore, int) or not 0 <= ignore <= 255:
                raise TypeError(f"'ignore_index' is {ignore!r}, not an id in 0..255")
            return cls.create(names, palette, ignore=sorted({ignore, IGNORE}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} cannot be used: {error!r}. Expected JSON like "
                '{"classes": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]], "ignore_index": 255}'
            ) from error

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def allowed(self) -> list[int]:
        """The raw ids that an annotation may hold."""
        return np.flatnonzero(self.table != UNKNOWN).tolist()

    def apply(self, raw: np.ndarray, name: str) -> np.ndarray:
        """uint8 raw ids -> uint8 train ids of the same shape; LabelError names `name` and the ids not allowed."""
        # bytes.translate looks 256 entries up about four times faster than numpy's indexing.
        train = np.frombuffer(raw.tobytes().translate(self.table.tobytes()), np.uint8).reshape(raw.shape)
        if (train == UNKNOWN).any():
            found = np.unique(raw)
            raise LabelError(
                f"{name}: the annotation holds ids {ranges(found[self.table[found] == UNKNOWN])} that the label table "
                f"does not know (ids found: {ranges(found)}; ids allowed: {ranges(self.allowed())} for "
                f"{self.num_classes} classes and the ignored ones). {self.advice}"
            )
        return train


def ranges(ids: Sequence[int] | np.ndarray) -> str:
    """Ids in rising order as text: [0, 1, 2, 5, 255] -> "0-2, 5, 255"."""
    steps = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return ", ".join(f"{step[0]}-{step[-1]}" if len(step) > 1 else f"{step[0]}" for step in steps if len(step))


def voc_colours(count: int) -> np.ndarray:
    """The first `count` colours of PASCAL VOC's colour map after black, uint8 [count, 3]: the index's bits, spread."""
    index = np.arange(1, count + 1)
    colours = np.zeros((count, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)
