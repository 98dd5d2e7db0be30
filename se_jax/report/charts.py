"""Charts of lines, bars and intervals, and square matrices: what lies where, in pixels.

`templates/charts.html.jinja` draws them.
Colours are indices of the page's CSS variables --c0, --c1, ...
"""

import math

import numpy as np
from PIL import Image

from se_jax.report import pictures

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
RIGHT_CELL, WRONG_CELL = (37, 99, 201), (217, 112, 26)  # a matrix's cells on its diagonal and off it
NUMBERED = 24  # classes of the largest matrix that has numbers in its cells


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover `low` to `high` in about `count` steps."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _label(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def lines(series, *, x_label: str, y_label: str, marks: bool = False) -> dict | None:
    """A line chart, its y axis from 0; None where nothing is finite.

    Args:
      series: list of (name, color index, xs, ys); values that are not finite are left out.
      marks: put a dot with a tooltip at every point.
    """
    series = [
        (name, color, [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)])
        for name, color, xs, ys in series
    ]
    series = [entry for entry in series if entry[2]]
    if not series:
        return None
    xs, ys = zip(*(point for *_, points in series for point in points), strict=True)
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(0, max(ys))
    x_end = max(xs) or 1

    def across(x):
        return LEFT + (x - x_ticks[0]) / (x_end - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def down(y):
        return HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    def curve(name, color, points):
        path = "M" + "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)
        dots = [
            {"x": across(x), "y": down(y), "tip": f"{name}: {y:.4g} at step {x}"}
            for x, y in points
            if marks or len(points) == 1  # a line of one point cannot be seen
        ]
        return {"color": color, "path": path, "dots": dots}

    frame = dict(width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT, top=TOP, bottom=HEIGHT - BOTTOM)
    return frame | dict(
        x_label=x_label,
        y_label=y_label,
        x_ticks=[(across(tick), _label(tick)) for tick in x_ticks if tick <= x_end],
        y_ticks=[(down(tick), _label(tick)) for tick in y_ticks],
        curves=[curve(*entry) for entry in series],
    )


def bars(groups, *, x_label: str) -> dict | None:
    """Horizontal bars in groups, for positive values; the axis is logarithmic where they differ by more than ten times.

    Args:
      groups: list of (group name, list of (bar name, value)); None is returned where there is no value.
    """
    values = [value for _, entries in groups for _, value in entries]
    if not values:
        return None
    if max(values) > 10 * min(values):
        low, high = math.floor(math.log10(min(values)) - 0.15), math.ceil(math.log10(max(values)) + 0.05)
        grid, scale, x_label = [10.0**power for power in range(low, high + 1)], math.log10, f"{x_label}, logarithmic"
    else:
        grid, scale = ticks(0, max(values)), float
    left, right, row, head = 150, 74, 22, 30

    def length(value):
        start, end = scale(grid[0]), scale(grid[-1])
        return (scale(value) - start) / (end - start) * (WIDTH - left - right)

    drawn, y = [], 0
    for i, (group, entries) in enumerate(groups):
        placed = [
            {"name": name, "y": y + head + row * k, "length": length(value), "value": f"{value:.3g}"}
            for k, (name, value) in enumerate(entries)
        ]
        drawn.append({"name": group, "color": 2 + i % 4, "y": y, "bars": placed})  # 0 and 1 stand for runs
        y += head + row * len(entries)
    frame = dict(width=WIDTH, height=y + 44, left=left, right=WIDTH - right, row=row)
    return frame | dict(x_label=x_label, ticks=[(left + length(tick), f"{tick:g}") for tick in grid], groups=drawn)


def intervals(groups, *, x_label: str) -> dict | None:
    """Numbers with their intervals, a row each, in groups; a line marks 0 where it lies on the axis.

    Args:
      groups: list of (group name, list of (name, number, low, high)); ends that are not finite are not drawn. None is
        returned where there is no number.
    """
    ends = [x for _, entries in groups for _, *found in entries for x in found if math.isfinite(x)]
    if not ends:
        return None
    left, right, row, head = 150, 74, 22, 30
    grid = ticks(min(ends), max(ends))

    def across(x):
        return left + (x - grid[0]) / (grid[-1] - grid[0]) * (WIDTH - left - right)

    drawn, y = [], 0
    for i, (group, entries) in enumerate(groups):
        placed = []
        for k, (name, number, low, high) in enumerate(entries):
            known = math.isfinite(low) and math.isfinite(high)
            tip = f"{name}: {number:.4g}" + (f", {low:.4g} to {high:.4g}" if known else "")
            bar = {"from": across(low), "to": across(high)} if known else {"from": across(number), "to": across(number)}
            placed.append(bar | {"name": name, "y": y + head + row * k, "x": across(number), "tip": tip})
        drawn.append({"name": group, "color": i % 6, "y": y, "rows": placed})
        y += head + row * len(entries)
    frame = dict(width=WIDTH, height=y + 44, left=left, right=WIDTH - right)
    zero = across(0) if grid[0] <= 0 <= grid[-1] else None
    return frame | dict(x_label=x_label, zero=zero, ticks=[(across(tick), f"{tick:g}") for tick in grid], groups=drawn)


def strength(share):
    """Opacity of a matrix's cell: the square root, so that one percent can be seen too."""
    return share**0.5


def heat_map(shares, names, *, x_label: str, y_label: str) -> dict:
    """A square matrix of shares, its rows and columns named alike, for two classes or for some hundred.

    Small ones have numbers in their cells; each row shows its largest numbers when pointed at.

    Args:
      shares: float [K, K], 0 to 1; rows of NaN are shown as unknown.
      names: K names.
    """
    count = len(names)
    cell = 34 if count <= 12 else 26 if count <= NUMBERED else 14 if count <= 60 else 9
    font = min(12, cell - 0.6)
    corner = 24 + 0.6 * font * max(map(len, names))
    side, large = count * cell, count > NUMBERED
    ends = [{"place": corner - 5, "row": "end", "column": "start"}]
    if large:  # also named on the right and below
        ends.append({"place": corner + side + 5, "row": "start", "column": "end"})
    cells = np.zeros((count, count, 4), np.uint8)
    cells[..., :3] = np.where(np.eye(count, dtype=bool)[..., None], RIGHT_CELL, WRONG_CELL)
    cells[..., 3] = np.round(255 * strength(np.nan_to_num(shares)))  # the page's background shows through

    def row(i):
        share = shares[i]
        most = [j for j in np.argsort(-share, kind="stable")[:6] if share[j]]
        numbers = [
            {"x": corner + (j + 0.5) * cell, "percent": f"{100 * share[j]:.0f}", "strong": strength(share[j]) > 0.6}
            for j in np.flatnonzero(share >= 0.005)
            if not large
        ]
        tip = f"{names[i]}: " + ", ".join(f"{100 * share[j]:.1f} % {names[j]}" for j in most)
        return {"y": corner + i * cell, "unknown": bool(np.isnan(share).any()), "numbers": numbers, "tip": tip}

    frame = dict(width=corner + side + (corner if large else 8), corner=corner, side=side, cell=cell, font=font)
    return frame | dict(
        x_label=x_label,
        y_label=y_label,
        image=pictures.data_url(Image.fromarray(cells), "PNG"),
        names=[(name, corner + (i + 0.5) * cell + 0.35 * font) for i, name in enumerate(names)],
        ends=ends,
        guides=[corner + i * cell for i in range(10, count, 10)] if large else [],
        rows=[row(i) for i in range(count)],
    )
