"""What the runs of several arms say: every arm at its own best rate, and in pairs against the first."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.intervals import Summary, summary
from se_jax.report import charts, pages

NOTE = """\
Runs of one seed share initial weights, data order and augmentation, so differences are taken seed by seed. Each arm \
is shown at the learning rate, of those tried, at which its mean mIoU on the validation split was the highest, over \
the seeds that all of its rates have; numbers are of the split that was kept for reporting. A bar is a 95 % interval \
by Student's t over the seeds: it says how far other seeds may lie, not other data sets."""


class Row(NamedTuple):
    """An arm at its best rate, all in percent.

    Attributes:
      tried: {rate: val mIoU}, over the seeds that all rates have, if there is one.
      at_edge: the best rate is the lowest or highest of several tried, so that a better one may lie beyond.
      test: of its runs.
      difference: of pairs, to the first arm at that one's best rate; None for the first arm and without a pair.
      classes: {class: the same of its IoU}. loss: mean curve.
    """

    arm: str
    rate: float
    tried: dict[float, Summary]
    at_edge: bool
    test: Summary
    difference: Summary | None
    classes: dict[str, Summary]
    loss: list[float]


def compare(runs: Sequence[dict[str, Any]], arms: Sequence[str]) -> list[Row]:
    """A row for every arm that has runs, in the order of `arms`."""
    best, rows = {}, []
    for arm in arms:
        by_rate = {}
        for run in runs:
            if run["arm"] == arm:
                by_rate.setdefault(run["rate"], {})[run["seed"]] = run
        if not by_rate:
            continue
        shared = set.intersection(*map(set, by_rate.values()))  # seeds by which rates can be compared
        tried = {
            rate: summary([_percent(run, "val") for seed, run in found.items() if seed in shared or not shared])
            for rate, found in sorted(by_rate.items())
        }
        rate = max(tried, key=lambda rate: tried[rate].mean)
        best[arm] = by_rate[rate]
        first = next(iter(best))
        pairs = [(run, best[first][seed]) for seed, run in best[arm].items() if arm != first and seed in best[first]]
        rows.append(
            Row(
                *(arm, rate, tried, len(tried) > 1 and rate in (min(tried), max(tried))),
                summary([_percent(run, "test") for run in best[arm].values()]),
                summary([_percent(a, "test") - _percent(b, "test") for a, b in pairs]) if pairs else None,
                _classes(pairs),
                np.mean([[np.nan if v is None else v for v in r["loss"]] for r in best[arm].values()], 0).tolist(),
            )
        )
    return rows


def _percent(run, split: str) -> float:
    return 100 * (run[split]["miou"] or 0.0)


def _classes(pairs) -> dict[str, Summary]:
    """The differences of every class that all pairs have."""
    if not pairs:
        return {}
    found = {
        name: [(a["test"]["iou"][name], b["test"]["iou"][name]) for a, b in pairs]
        for name in pairs[0][0]["test"]["iou"]
    }
    return {
        name: summary([100 * (a - b) for a, b in values])
        for name, values in found.items()
        if all(None not in value for value in values)
    }


HEADS = ("arm", "rate", "seeds", "test mIoU", "sd", "difference", "95 % interval", "detectable")


def cells(row: Row) -> list[str]:
    """A row of the table, as text under HEADS."""
    edge = " (edge)" if row.at_edge else ""
    found = [row.arm, f"{row.rate:g}{edge}", str(row.test.count), f"{row.test.mean:.2f}", _number(row.test.sd)]
    return found + (["", "", ""] if row.difference is None else _difference(row.difference))


def _difference(of: Summary) -> list[str]:
    if of.count == 1:
        return [f"{of.mean:+.2f}", "-", "-"]
    return [f"{of.mean:+.2f}", f"{of.low:+.2f} to {of.high:+.2f}", f"{of.detectable:.2f}"]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """All arms at their best rates, then the validation mIoU at every rate, then the classes."""
    blocks = [[HEADS, *map(cells, rows)]]
    blocks.append([("arm", "rate", "seeds", "val mIoU", "sd"), *_tried(rows)])
    names = [name for row in rows for name in row.classes]
    if names:
        shown = [row for row in rows if row.classes]
        heads = ("difference, points of IoU", *(row.arm for row in shown))
        blocks.append([heads, *_class_rows(dict.fromkeys(names), shown)])
    return "\n\n".join(map(aligned, blocks))


def _tried(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [row.arm, f"{rate:g}", str(of.count), f"{of.mean:.2f}", _number(of.sd)]
        for row in rows
        for rate, of in row.tried.items()
    ]


def _class_rows(names, shown: Sequence[Row]) -> list[list[str]]:
    def cell(row, name):
        of = row.classes.get(name)
        return "-" if of is None else f"{of.mean:+.2f} ± {_number(of.half)}"

    return [[name, *(cell(row, name) for row in shown)] for name in names]


def aligned(lines) -> str:
    """Lines of cells as a table of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def write(rows: Sequence[Row], path, title: str) -> pathlib.Path:
    """Writes the page with the table and its pictures; returns its path."""
    differences = [(row.arm, row.difference) for row in rows if row.difference]
    overall = [("", [(arm, of.mean, of.low, of.high) for arm, of in differences])] if differences else []
    rates = [(row.arm, [(f"{rate:g}", of.mean, of.low, of.high) for rate, of in row.tried.items()]) for row in rows]
    first = rows[0].arm if rows else ""
    figures = [
        (f"Difference to {first}, points of mIoU", "intervals", charts.intervals(overall, x_label="points of mIoU")),
        ("Validation mIoU at every rate", "intervals", charts.intervals(rates, x_label="mIoU, %")),
    ]
    curves = [(row.arm, i % 6, list(range(1, len(row.loss) + 1)), row.loss) for i, row in enumerate(rows)]
    loss = charts.lines(curves, x_label=f"part of training, of {len(curves[0][2]) if curves else 0}", y_label="loss")
    classes = [
        (row.arm, [(name, of.mean, of.low, of.high) for name, of in row.classes.items()]) for row in rows if row.classes
    ]
    sections = [
        pages.Section("Arms at their best rates", figures=figures, heads=HEADS, rows=[cells(row) for row in rows]),
        pages.Section(
            "Classes",
            f"Differences to {first} with their intervals; of so many, some leave out 0 by chance alone.",
            [("Difference of IoU, points", "intervals", charts.intervals(classes, x_label="points of IoU"))],
        ),
        pages.Section("Training loss, mean over the seeds", figures=[("", "lines", loss)], keys=[r.arm for r in rows]),
        pages.Section("All rates", heads=("arm", "rate", "seeds", "val mIoU", "sd"), rows=_tried(rows)),
    ]
    return pages.write_sections(path, title, sections, note=NOTE)
