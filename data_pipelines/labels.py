"""Class names, colours and the table from the ids (or colours) in annotation files to the ids of training."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

IGNORE = 255  # train id of pixels that count neither in the loss nor in the metric
UNKNOWN = 254  # table entry of a raw id that must not occur in an annotation
ADVICE = (
    'Say in classes.json what every id means: "ids" gives the id of each class (or a list of several), "ignore" lists '
    "ids without a class (docs/labels.md)."
)


class DataError(ValueError):
    """A data set, or one of its files, is not as it has to be; the message names the file and says what to do."""


class LabelError(DataError):
    """An annotation holds an id that the label table does not know. Never skipped: the table is wrong, not the file."""


@dataclasses.dataclass(frozen=True, eq=False)
class Colours:
    """What the colours of annotation files mean, where classes.json says it.

    codes: int32 [n], r << 16 | g << 8 | b, rising; meaning: uint8 [n], their train ids (IGNORE for ignored colours).
    masks: 'auto', 'ids' or 'colours': what an RGB file holds; auto: ids if its three channels are equal.
    compare: whether the palettes of palette files must agree with these colours, and with each other.
    """

    codes: np.ndarray
    meaning: np.ndarray
    masks: str = "auto"
    compare: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSpec:
    """What the pixels of a data set's annotations mean.

    names: K class names, in the order of their train ids.
    palette: uint8 [K, 3], RGB colour of each class.
    table: uint8 [256], raw id -> train id 0..K-1; IGNORE (255) for ignored ids, UNKNOWN (254) for ids not allowed.
    advice: what messages say is to be done about an annotation that is not of this kind.
    colours: what colours in the files mean; None where files hold ids only.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    table: np.ndarray
    advice: str = ADVICE
    colours: Colours | None = None

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | np.ndarray | None = None,
        ids: Mapping[int, int] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        advice: str = ADVICE,
        colours: Colours | None = None,
    ) -> "LabelSpec":
        """Makes the table from `ids` {raw id: train id} (default: 0..K-1 as they are) and the `ignore`d raw ids.

        Without a palette, colours are drawn from VOC's colour map. Raises DataError if the parts do not agree: every
        class needs an id, and an id has one meaning.
        """
        names = tuple(names)
        if not 1 <= len(names) <= UNKNOWN:
            raise DataError(f"a data set needs 1 to {UNKNOWN} classes, found {len(names)}")
        if len(set(names)) != len(names):
            raise DataError(f"class names must differ, found {sorted({n for n in names if names.count(n) > 1})} twice")
        shown = voc_colours(len(names)) if palette is None else np.asarray(palette)
        if shown.shape != (len(names), 3) or shown.dtype.kind not in "iu" or shown.min() < 0 or shown.max() > 255:
            raise DataError(
                f"the palette must hold {len(names)} colours [r, g, b] in 0..255, one a class; found {shown.tolist()}"
            )
        ids = {k: k for k in range(len(names))} if ids is None else ids
        table = np.full(256, UNKNOWN, np.uint8)
        for raw, train in ids.items():
            if not (0 <= raw <= 255 and 0 <= train < len(names)):
                raise DataError(f"id {raw} -> {train}: raw ids are 0..255, train ids 0..{len(names) - 1}")
            table[raw] = train
        if both := sorted(set(ids) & set(ignore)):
            raise DataError(f"ids {ranges(both)} are those of classes and ignored; an id has one meaning")
        if missing := [name for k, name in enumerate(names) if k not in ids.values()]:
            raise DataError(f"no id means {', '.join(missing)}; every class needs one")
        table[list(ignore)] = IGNORE
        return cls(names, shown.astype(np.uint8), table, advice, colours)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def allowed(self) -> list[int]:
        """The raw ids that an annotation may hold."""
        return np.flatnonzero(self.table != UNKNOWN).tolist()

    def file_ids(self) -> np.ndarray:
        """uint8 [K]: the lowest raw id of each class, which files of predictions hold.

        Raises DataError naming a class that has none.
        """
        ids = [np.flatnonzero(self.table == k) for k in range(self.num_classes)]
        if missing := [name for name, found in zip(self.names, ids, strict=True) if not len(found)]:
            raise DataError(f"no id in the files means {', '.join(missing)}; the label table gives each class one")
        return np.array([found[0] for found in ids], np.uint8)

    def meanings(self) -> str:
        """The table as text, a line for each id that may occur."""
        said = {k: name for k, name in enumerate(self.names)} | {IGNORE: "(ignored)"}
        return "\n".join(f"    {raw:3}  {said[int(self.table[raw])]}" for raw in self.allowed())

    def read(self, pixels: np.ndarray, name: str, palette: np.ndarray | None = None) -> np.ndarray:
        """An annotation's pixels -> uint8 [h, w] train ids.

        pixels: uint8 ids [h, w] or colours [h, w, 3]. palette: uint8 [n, 3], that of a palette file. Raises DataError
        naming the file `name` and the colours, or LabelError and the ids, that mean nothing.
        """
        if pixels.ndim == 2:
            train = self.apply(pixels, name)
            if palette is not None and self.colours is not None and self.colours.compare and len(self.colours.codes):
                self._compare(pixels, palette, name)
            return train
        masks = self.colours.masks if self.colours is not None else "auto"
        grey = _equal_channels(pixels)
        if grey is None and masks == "ids":
            raise DataError(
                f'{name}: the annotation has colours, but classes.json says "masks": "ids". Take that away, and give '
                'every class its colour by "palette".'
            )
        if grey is None or masks == "colours":
            return self._look_up(pixels, name)
        if masks == "ids" or self.colours is None:
            return self.apply(grey, name)
        as_ids, as_colours = self.table[grey], self._meaning(_codes(pixels))
        by_id, by_colour = (as_ids != UNKNOWN).all(), (as_colours != UNKNOWN).all()
        if by_id and by_colour and (as_ids != as_colours).any():
            example = grey[as_ids != as_colours][0]
            raise DataError(
                f"{name}: an RGB file of equal channels can be read in two ways here: {example} as an id is "
                f"{self._said(int(self.table[example]))}, ({example}, {example}, {example}) as a colour is "
                f'{self._said(as_colours[as_ids != as_colours][0])}. Write "masks": "colours" or "masks": "ids" in '
                "classes.json."
            )
        return as_colours if by_colour and not by_id else self.apply(grey, name)

    def apply(self, raw: np.ndarray, name: str) -> np.ndarray:
        """uint8 raw ids -> uint8 train ids of the same shape; LabelError names `name` and the ids not allowed."""
        # bytes.translate looks 256 entries up about four times faster than numpy's indexing.
        looked_up = raw.tobytes().translate(self.table.tobytes())
        train = np.frombuffer(looked_up, np.uint8).reshape(raw.shape)
        if UNKNOWN in looked_up:
            found = np.unique(raw)
            raise LabelError(
                f"{name}: the annotation holds ids {ranges(found[self.table[found] == UNKNOWN])} that the label table "
                f"does not know (ids found: {ranges(found)}; ids allowed: {ranges(self.allowed())} for "
                f"{self.num_classes} classes and the ignored ones). {self.advice}"
            )
        return train

    def _said(self, train: int) -> str:
        return "ignored" if train == IGNORE else repr(self.names[train])

    def _meaning(self, codes: np.ndarray) -> np.ndarray:
        """Train ids of colour codes; UNKNOWN where they have none."""
        known = self.colours.codes if self.colours is not None else ()
        if self.colours is None or not len(known):
            return np.full(codes.shape, UNKNOWN, np.uint8)
        places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(known[places] == codes, self.colours.meaning[places], np.uint8(UNKNOWN))

    def _look_up(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Colours [h, w, 3] -> train ids [h, w]."""
        codes = _codes(pixels)
        if self.colours is None:
            raise DataError(
                f"{name}: the annotation has RGB pixels; expected one 8-bit channel of class ids (a grey or palette "
                "PNG). Take the masks of this data set as they are published."
            )
        if not len(self.colours.codes):
            raise DataError(
                f"{name}: the annotation has colours ({_count_colours(codes)}), and no palette says which class each "
                'one is. Give every class its colour in classes.json: "palette": [[r, g, b], ...], and colours without '
                'a class under "ignore": [[r, g, b]]. They are looked up exactly (docs/labels.md).'
            )
        train = self._meaning(codes)
        unknown = codes[train == UNKNOWN]
        if len(unknown):
            raise DataError(
                f"{name}: {len(unknown)} of {codes.size} pixels of the annotation have a colour that classes.json does "
                f"not know: {_count_colours(unknown)}. Colours must be exact. If they blend at borders, export the "
                'mask without smoothing; if a class is missing, add it; if they have no class, list them: "ignore": '
                "[[r, g, b]]."
            )
        return train

    def _compare(self, ids: np.ndarray, palette: np.ndarray, name: str) -> None:
        """DataError if the palette of a file gives one of the ids it holds another colour than classes.json.

        Where several ids make a class, their colours may differ, but not be another class's.
        """
        ramp = np.arange(len(palette))[:, None].repeat(3, 1)
        if (palette == ramp).all():
            return  # colours that are the ids say nothing of their own
        table = self.table[: len(palette)]
        expected = np.where(table[:, None] < self.num_classes, self.palette[np.minimum(table, self.num_classes - 1)], 0)
        meant = self._meaning(_codes(palette))
        several = np.bincount(self.table, minlength=256)[table] > 1
        wrong = (table < self.num_classes) & (palette != expected).any(1) & (~several | (meant < self.num_classes))
        if not wrong.any():
            return
        wrong &= np.bincount(ids.ravel(), minlength=256)[: len(palette)] > 0
        if wrong.any():
            lines = "".join(
                f"\n    id {k}: {tuple(palette[k].tolist())} in the file"
                + (f", the colour of {self._said(meant[k])}" if meant[k] != UNKNOWN else "")
                + f"; {self._said(table[k])} {tuple(expected[k].tolist())} in classes.json"
                for k in np.flatnonzero(wrong)
            )
            raise DataError(
                f"{name}: the file's own palette contradicts classes.json:{lines}\nIf the ids are right, write "
                '"palette_in_files": "ignore" in classes.json; if the colours are, python -m data_pipelines.convert '
                "--by=colours writes the masks anew by them."
            )


def _equal_channels(pixels: np.ndarray) -> np.ndarray | None:
    """[h, w, 3] -> [h, w] if the three channels are equal, else None."""
    first = pixels[..., 0]
    return first if (first == pixels[..., 1]).all() and (first == pixels[..., 2]).all() else None


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Colours uint8 [..., 3] -> int32 [...]: r << 16 | g << 8 | b."""
    wide = pixels.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def colour_code(colour: Sequence[int]) -> int:
    """(r, g, b) -> r << 16 | g << 8 | b."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _count_colours(codes: np.ndarray, most: int = 5) -> str:
    """The most frequent colours and their pixels, as text."""
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    first = zip(found[order][:most], counts[order][:most], strict=True)
    shown = [f"({c >> 16}, {c >> 8 & 255}, {c & 255}) in {n} pixels" for c, n in first]
    return ", ".join(shown) + (f" and {len(found) - most} more colours" if len(found) > most else "")


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
