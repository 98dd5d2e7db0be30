"""Line and bar charts and matrices as SVG text, for pages that load nothing.

Colours are the page's CSS variables --c0, --c1, ...; those of a matrix let the page's background through.
"""

import html
import math

import numpy as np
from PIL import Image

from se_jax.report import html as page

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
    if value and abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def lines(series, *, x_label: str, y_label: str, y_max: float | None = None, marks: bool = False) -> str:
    """A line chart.

    Args:
      series: list of (name, color index, xs, ys); values that are not finite are left out.
      y_max: least upper end of the y axis, which starts at 0.
      marks: draw a dot with a tooltip at every point.
    """
    series = [
        (name, color, [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)])
        for name, color, xs, ys in series
    ]
    series = [entry for entry in series if entry[2]]
    if not series:
        return '<p class="none">nothing recorded</p>'
    xs = [x for *_, points in series for x, _ in points]
    ys = [y for *_, points in series for _, y in points]
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(0, max(*ys, y_max or 0))
    x_end = max(xs) or 1

    def place(x, y):
        across = LEFT + (x - x_ticks[0]) / (x_end - x_ticks[0]) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_label)}">']
    for tick in y_ticks:
        _, y = place(0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in (t for t in x_ticks if t <= x_end):
        x, y = place(tick, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{_label(tick)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(f'<text class="axis" x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{x_label}</text>')
    parts.append(
        f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{y_label}</text>'
    )
    for name, color, points in series:
        placed = [place(x, y) for x, y in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path class="line" style="stroke:var(--c{color})" d="{path}"/>')
        for (x, y), (px, py) in zip(points, placed, strict=True) if marks or len(points) == 1 else ():
            tip = html.escape(f"{name}: {y:.4g} at step {x}")
            dot = f'<circle style="fill:var(--c{color})" cx="{px:.1f}" cy="{py:.1f}" r="3.2">'
            parts.append(f"{dot}<title>{tip}</title></circle>")
    return "".join(parts) + "</svg>"


def bars(groups, *, x_label: str, format_value="{:.3g}".format) -> str:
    """Horizontal bars in groups, for positive values; the axis is logarithmic where they differ by more than ten times.

    Args:
      groups: list of (group name, list of (bar name, value)).
    """
    values = [value for _, entries in groups for _, value in entries]
    logarithmic = max(values) > 10 * min(values)
    if logarithmic:
        low, high = math.floor(math.log10(min(values)) - 0.15), math.ceil(math.log10(max(values)) + 0.05)
        grid, scale, x_label = [10.0**power for power in range(low, high + 1)], math.log10, f"{x_label}, logarithmic"
    else:
        grid, scale = ticks(0, max(values)), float
    left, right, row, head = 150, 74, 22, 30
    height = sum(head + row * len(entries) for _, entries in groups) + 44

    def place(value):
        start, end = scale(grid[0]), scale(grid[-1])
        return left + (scale(value) - start) / (end - start) * (WIDTH - left - right)

    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(x_label)}">']
    for tick in grid:
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 38}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 22}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text class="axis" x="{(WIDTH + left - right) / 2}" y="{height - 4}" text-anchor="middle">{x_label}</text>'
    )
    y = 0
    for color, (group, entries) in enumerate(groups):
        parts.append(f'<text class="group" x="4" y="{y + 22}">{html.escape(group)}</text>')
        y += head
        for name, value in entries:
            end = place(value)
            parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>')
            parts.append(
                f'<rect style="fill:var(--c{2 + color % 4})" x="{left}" y="{y + 3}" rx="2" height="{row - 7}" '
                f'width="{end - left:.1f}"/>'
            )
            parts.append(f'<text class="value" x="{end + 6:.1f}" y="{y + 14}">{format_value(value)}</text>')
            y += row
    return "".join(parts) + "</svg>"


def strength(share):
    """Opacity of a matrix's cell: the square root, so that one percent can be seen too."""
    return share**0.5


def heat_map(shares, names, *, x_label: str, y_label: str) -> str:
    """A square matrix of shares, its rows and columns named alike, for two classes or for some hundred.

    Small ones have numbers in their cells; each row says its largest numbers when pointed at.

    Args:
      shares: float [K, K], 0 to 1; rows of NaN are shown as unknown.
      names: K names.
    """
    count = len(names)
    cell = 34 if count <= 12 else 26 if count <= NUMBERED else 14 if count <= 60 else 9
    font = min(12, cell - 0.6)
    corner = 24 + 0.6 * font * max(map(len, names))
    side, far = count * cell, corner if count > NUMBERED else 8  # large ones are named on all four sides
    whole = corner + side + far
    cells = np.zeros((count, count, 4), np.uint8)
    cells[..., :3] = np.where(np.eye(count, dtype=bool)[..., None], RIGHT_CELL, WRONG_CELL)
    cells[..., 3] = np.round(255 * strength(np.nan_to_num(shares)))
    at = f'x="{corner:.1f}" y="{corner:.1f}" width="{side}" height="{side}"'
    middle = corner + side / 2
    parts = [
        f'<svg viewBox="0 0 {whole:.0f} {whole:.0f}" style="width:{whole:.0f}px;max-width:100%" role="img" '
        f'aria-label="{html.escape(y_label)}, {html.escape(x_label)}">',
        f'<image class="mask" {at} href="{page.data_url(Image.fromarray(cells), "PNG")}"/>',
        f'<text class="axis" x="{middle:.1f}" y="12" text-anchor="middle">{x_label}</text>',
        f'<text class="axis" transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">{y_label}</text>',
    ]
    for i, name in enumerate(names):
        line = corner + (i + 0.5) * cell + 0.35 * font
        text = f'style="font-size:{font:g}px">{html.escape(name)}</text>'
        for place, anchor in ((corner - 5, "end"), (corner + side + 5, "start"))[: 1 + (far > 8)]:
            parts.append(f'<text x="{place:.1f}" y="{line:.1f}" text-anchor="{anchor}" {text}')
        for place, anchor in ((corner - 5, "start"), (corner + side + 5, "end"))[: 1 + (far > 8)]:
            turned = f"translate({line:.1f} {place:.1f}) rotate(-90)"
            parts.append(f'<text transform="{turned}" text-anchor="{anchor}" {text}')
    for place in (corner + i * cell for i in range(10, count, 10) if far > 8):
        d = f"M{place:.1f} {corner:.1f}v{side}M{corner:.1f} {place:.1f}h{side}"
        parts.append(f'<path class="grid" d="{d}"/>')
    parts += [_row(row, names, i, corner, cell) for i, row in enumerate(shares)]
    return "".join(parts) + f'<rect class="frame" {at}/></svg>'


def _row(row, names, i: int, corner: float, cell: int) -> str:
    """What lies over the cells of a row of a heat map: numbers, where there is place, and what it says."""
    y = corner + i * cell
    at = f'x="{corner:.1f}" y="{y:.1f}" width="{len(names) * cell}" height="{cell}"'
    if np.isnan(row).any():
        return f'<rect class="unknown" {at}/>'
    numbers = "".join(
        f'<text class="{"cell" if strength(row[j]) > 0.6 else "weak"}" style="font-size:11px" '
        f'x="{corner + (j + 0.5) * cell:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">{100 * row[j]:.0f}</text>'
        for j in np.flatnonzero(row >= 0.005)
        if len(names) <= NUMBERED
    )
    most = ", ".join(f"{100 * row[j]:.1f} % {names[j]}" for j in np.argsort(-row, kind="stable")[:6] if row[j])
    return f'{numbers}<rect class="over" {at}><title>{html.escape(f"{names[i]}: {most}")}</title></rect>'
