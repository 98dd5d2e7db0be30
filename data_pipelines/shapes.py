"""Shapes: a segmentation data set drawn on the fly, so that everything can be tried with nothing to download.

A scene is one to three textured grounds under a dozen overlapping, shaded, textured objects, in changing light and
noise. All colours are drawn from one distribution, so that a colour says nothing of the class. Stripes and checks
differ only beyond a cell's width, balls and pebbles only in size, and the inside of a ring is not the ring: for these a
network needs coarse maps. Poles, crosses, rings, pebbles and the planks of a box are a few pixels wide: for these it
needs fine ones.
A one-pixel band around every object is labelled 255, like the border of PASCAL VOC's objects.

A scene is a function of (split, index) alone.
"""

import zlib

import numpy as np

from data_pipelines.labels import IGNORE, LabelSpec
from data_pipelines.sources import Source

NAMES = ("plain", "stripes", "checks", "ball", "box", "ring", "pole", "pebble", "cross")
PALETTE = (
    (96, 150, 84),
    (224, 190, 96),
    (150, 110, 170),
    (214, 72, 72),
    (60, 110, 200),
    (240, 140, 40),
    (70, 70, 80),
    (60, 190, 190),
    (236, 120, 190),
)
PLAIN, STRIPES, CHECKS, BALL, BOX, RING, POLE, PEBBLE, CROSS = range(len(NAMES))

# All knobs of difficulty. Lengths are pixels of an image REFERENCE pixels high; other heights scale them.
REFERENCE = 96
GROUNDS = (1, 3)  # number of grounds in a scene
OBJECTS = {BALL: (1, 2), BOX: (1, 2), RING: (1, 3), POLE: (1, 3), PEBBLE: (3, 7), CROSS: (1, 3)}  # number of each
CELL = (5.0, 8.0)  # width of a stripe or check
RADIUS = {BALL: (14, 24), BOX: (13, 22), RING: (11, 17), POLE: (35, 80), PEBBLE: (4.5, 6.5), CROSS: (12, 17)}
BAR = {RING: (3.0, 4.5), POLE: (1.8, 2.5), CROSS: (3.5, 5.0)}  # half width of the drawn stroke
CONTRAST = 80.0  # least distance between two colours that meet, in levels
TEXTURE = 10.0  # standard deviation of the smooth texture on every surface, in levels
NOISE = (2.0, 6.0)  # standard deviation of the pixel noise, in levels
LIGHT = (0.7, 1.15)  # brightness of a scene
BORDER = 1.0  # width of the ignored band around an object

MARGIN = 4.0  # how far an object's soft shadow reaches


class ShapesSource(Source):
    """`count` scenes of `image_size` (h, w) of one split ('train', 'val', ...), encoded as PPM and PGM files."""

    def __init__(self, split: str, count: int, image_size: tuple[int, int] = (96, 128)):
        super().__init__(f"shapes ({split})")
        self.split, self.count, self.image_size = split, count, (image_size[0], image_size[1])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name} has {self.count} scenes, asked for {index}")
        image, label = scene(self.split, index, self.image_size)
        height, width = label.shape
        head = b" %d %d 255\n" % (width, height)
        return b"P6" + head + image.tobytes(), b"P5" + head + label.tobytes(), f"{self.name} {index}"

    def size(self, index: int) -> tuple[int, int]:
        return self.image_size


def label_spec() -> LabelSpec:
    """The names and colours of the nine classes."""
    return LabelSpec.create(NAMES, PALETTE)


def scene(split: str, index: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Draws scene `index` of `split`: image uint8 [h, w, 3] and label uint8 [h, w] of train ids and 255."""
    random = np.random.default_rng([zlib.crc32(split.encode()), index])
    unit = size[0] / REFERENCE
    canvas = _Canvas(random, size, unit)
    canvas.draw_grounds()
    kinds = np.repeat(list(OBJECTS), [random.integers(low, high + 1) for low, high in OBJECTS.values()])
    # Big objects first, or they would hide the small ones; within that, any order.
    rank = np.isin(kinds, (RING, CROSS)) + 2 * np.isin(kinds, (POLE, PEBBLE)) + 1.2 * random.random(len(kinds))
    for kind in kinds[np.argsort(rank)]:
        canvas.draw_object(int(kind))
    return canvas.finish(), canvas.label


class _Canvas:
    """A picture being painted: float32 colours 0..255 and their labels."""

    def __init__(self, random: np.random.Generator, size: tuple[int, int], unit: float):
        self.random, self.size, self.unit = random, size, unit
        self.colour = np.zeros((*size, 3), np.float32)
        self.label = np.zeros(size, np.uint8)
        self.light = random.uniform(0, 2 * np.pi)  # direction the light comes from
        self.texture = _smooth_noise(random, size, unit)

    def draw_grounds(self) -> None:
        """Cells of warped random sites, each a plain, striped or checked ground."""
        random, (height, width) = self.random, self.size
        count = random.integers(GROUNDS[0], GROUNDS[1] + 1)
        y, x = _grid(0, height, 0, width)
        bent_y, bent_x = y + 0.25 * self.unit * self.texture[0], x + 0.25 * self.unit * self.texture[1]
        sites = random.random((count, 2)) * self.size
        nearest = np.argmin([np.hypot(bent_y - sy, bent_x - sx) for sy, sx in sites], axis=0)
        kinds = random.permutation([PLAIN, STRIPES, CHECKS])[:count]
        for site, kind in enumerate(kinds):
            here = nearest == site
            self.colour[here] = self._ground(int(kind), y, x)[here]
            self.label[here] = kind
        edge = np.zeros(self.size, bool)
        for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            differ = nearest[a] != nearest[b]
            edge[a] |= differ
            edge[b] |= differ
        self.label[edge] = IGNORE

    def _ground(self, kind: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        first, second = self._two_colours()
        if kind == PLAIN:
            # The same two colours, in clouds.
            mix = 1 / (1 + np.exp(-self.texture[2] / (0.5 * TEXTURE)))
        else:
            angle, phase = self.random.uniform(0, np.pi), self.random.uniform(0, 10, 2)
            cell = self.random.uniform(*CELL) * self.unit
            along, across = _turned(y, x, angle)
            mix = _square_wave(along / cell + phase[0])
            if kind == CHECKS:
                mix = mix * _square_wave(across / cell + phase[1])
            mix = 0.5 + 0.5 * mix
        return first + mix[..., None] * (second - first) + self.texture[0, ..., None]

    def draw_object(self, kind: int) -> None:
        """One object at a random place: paints colour, shading, soft shadow around it, and its label with border."""
        random = self.random
        height, width = self.size
        radius = random.uniform(*RADIUS[kind]) * self.unit
        bar = random.uniform(*BAR[kind]) * self.unit if kind in BAR else 0.0
        cy, cx = random.random(2) * self.size
        angle = random.normal(np.pi / 2, 0.35) if kind == POLE else random.uniform(0, np.pi)
        squeeze = random.uniform(0.6, 1.0)
        margin = MARGIN * self.unit
        reach = radius * (1.5 if kind == BOX else 1.0) + bar + margin
        top, bottom = max(int(cy - reach), 0), min(int(cy + reach) + 2, height)
        left, right = max(int(cx - reach), 0), min(int(cx + reach) + 2, width)
        y, x = _grid(top, bottom, left, right)
        along, across = _turned(y - cy, x - cx, angle)
        distance = _distance(kind, along, across, radius, bar, squeeze)
        window = np.s_[top:bottom, left:right]

        colour = self._contrasting(self.colour[window][distance < 1])
        shade = 1 + 0.3 * ((y - cy) * np.sin(self.light) + (x - cx) * np.cos(self.light)) / (radius + bar)
        shade = shade * _relief(kind, distance, along, across, radius, bar, self.unit)
        paint = colour * shade[..., None] + self.texture[1][window][..., None]
        shadow = 1 - 0.45 * np.exp(-np.maximum(distance, 0) * (2.5 / margin))[..., None]
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        self.colour[window] = cover * paint + (1 - cover) * shadow * self.colour[window]
        label = self.label[window]
        label[distance < BORDER] = IGNORE
        label[distance <= 0] = kind

    def finish(self) -> np.ndarray:
        """Light, its fall-off over the picture, and noise; -> uint8 [h, w, 3]."""
        random = self.random
        y, x = _grid(0, self.size[0], 0, self.size[1])
        slope = random.uniform(-0.3, 0.3, 2)
        level = random.uniform(*LIGHT) * (1 + slope[0] * (y / self.size[0] - 0.5) + slope[1] * (x / self.size[1] - 0.5))
        tint = random.uniform(0.85, 1.1, 3).astype(np.float32)
        noise = random.standard_normal((*self.size, 3), np.float32) * np.float32(random.uniform(*NOISE))
        return np.clip(self.colour * level[..., None] * tint + noise, 0, 255).astype(np.uint8)

    def _two_colours(self) -> tuple[np.ndarray, np.ndarray]:
        first = _colour(self.random)
        return first, self._contrasting(first[None])

    def _contrasting(self, surroundings: np.ndarray) -> np.ndarray:
        """A colour at least CONTRAST away from the mean of what it lies on (or the last of eight draws)."""
        mean = surroundings.mean(0) if len(surroundings) else np.full(3, 128, np.float32)
        for _ in range(8):
            colour = _colour(self.random)
            if np.linalg.norm(colour - mean) >= CONTRAST:
                break
        return colour


def _distance(kind: int, along, across, radius: float, bar: float, squeeze: float) -> np.ndarray:
    """Signed distance to the outline of an object at the origin, negative inside (approximate for balls)."""
    if kind == BALL:
        return np.hypot(along, across / squeeze) * (1 + squeeze) / 2 - radius * (1 + squeeze) / 2
    if kind == PEBBLE:
        return np.hypot(along, across) - radius
    if kind == RING:
        return np.abs(np.hypot(along, across) - radius) - bar
    along, across = np.abs(along), np.abs(across)
    if kind == BOX:
        return np.maximum(along - radius, across - radius * squeeze)
    if kind == POLE:
        return np.hypot(np.maximum(along - radius, 0), across) - bar
    return np.maximum(np.minimum(along, across) - bar, np.maximum(along, across) - radius)


def _relief(kind: int, distance, along, across, radius: float, bar: float, unit: float) -> np.ndarray:
    """Brightness from an object's form: round balls, pebbles and rings, boxes of planks, banded poles, flat crosses."""
    if kind in (BALL, PEBBLE):
        return 0.65 + 0.7 * np.clip(-distance / radius, 0, 1)
    if kind == RING:
        return 0.8 + 0.4 * np.clip(-distance / bar, 0, 1)
    if kind == BOX:
        planks = np.abs((across / (5.0 * unit)) % 1 - 0.5) > 0.4
        return np.where((distance > -2.0 * unit) | planks, 0.65, 1.05)
    if kind == POLE:
        return 1 + 0.25 * _square_wave(along / (4 * unit))
    return np.ones_like(distance)


def _colour(random: np.random.Generator) -> np.ndarray:
    colour = random.uniform(30, 225, 3).astype(np.float32)
    return colour.mean() + random.uniform(0.4, 0.9) * (colour - colour.mean())


def _grid(top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(top, bottom, dtype=np.float32)[:, None], np.arange(left, right, dtype=np.float32)[None]


def _turned(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return y * sine + x * cosine, y * cosine - x * sine


def _square_wave(x: np.ndarray) -> np.ndarray:
    """-1 and 1 in turn, each one unit wide, with soft edges."""
    return np.clip(4 * np.sin(np.pi * x), -1, 1)


def _smooth_noise(random: np.random.Generator, size: tuple[int, int], unit: float) -> np.ndarray:
    """Three textures [3, h, w] of mean 0 and standard deviation TEXTURE: random grids of three widths, interpolated."""
    result = np.zeros((3, *size), np.float32)
    for cell, weight in ((24, 0.8), (10, 0.5), (4, 0.33)):
        rows, columns = (_interpolation(random, n, cell * unit) for n in size)
        grid = random.standard_normal((3, rows.shape[1], columns.shape[1]), np.float32)
        result += np.float32(weight * 1.5) * (rows @ grid @ columns.T)
    return TEXTURE * result


def _interpolation(random: np.random.Generator, count: int, cell: float) -> np.ndarray:
    """float32 [count, grid points]: linear interpolation of a grid `cell` pixels wide, at a random offset."""
    place = (np.arange(count, dtype=np.float32) / cell + random.random()).astype(np.float32)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(int(place[-1]) + 2, dtype=np.float32)), 0)
