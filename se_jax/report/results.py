"""What a network reached: overall numbers, curves, classes, equalizer statistics and validation images.

Each function takes runs and returns what its part of a page shows; None or an empty list where no run has it.
"""

import math
from collections.abc import Mapping

import numpy as np

from se_jax.report import charts, pictures
from se_jax.report.rendering import percent

POINTS = 400  # most points of a curve


def mean_of(values: Mapping[str, float | None]) -> str:
    """What a mean over the classes is called: 'mean', or 'mean of 1 of 2 classes' where some have no number.

    values: {class: its number, None where it cannot be}.
    """
    measured = sum(value is not None for value in values.values())
    return "mean" if measured == len(values) else f"mean of {measured} of {len(values)} classes"


def tiles(runs) -> list[dict]:
    """The overall numbers of every run."""
    return [{"color": i, "run": run.name, **_overall(run.metrics)} for i, run in enumerate(runs) if run.metrics]


def _overall(metrics: dict) -> dict:
    over = mean_of(metrics.get("iou", {})).removeprefix("mean")
    accuracy = mean_of(metrics.get("acc", {})).replace("mean", "mean accuracy", 1)
    accuracies = ((accuracy, "macc"), ("pixel accuracy", "aacc"))
    facts = [(f"{percent(metrics.get(key))} %", words) for words, key in accuracies]
    facts += [(f"{metrics[key]:,}", key) for key in ("step", "images") if isinstance(metrics.get(key), int)]
    facts += [(metrics[key], key) for key in ("equalizer", "checkpoint") if metrics.get(key)]
    return {"miou": metrics.get("miou"), "over": f", the mean{over}" if over else "", "facts": facts}


def curves(runs) -> list[tuple[str, dict | None]]:
    """Loss and mIoU over the steps: (caption, chart)."""
    if not any(run.history for run in runs):
        return []
    loss = [(run.name, i, *_thin(*run.curve("loss"))) for i, run in enumerate(runs)]
    miou = [(run.name, i, *run.curve("miou")) for i, run in enumerate(runs)]
    miou = [(name, i, steps, [100 * v for v in values]) for name, i, steps, values in miou]
    return [
        ("Training loss", charts.lines(loss, x_label="step", y_label="loss")),
        ("Validation mIoU", charts.lines(miou, x_label="step", y_label="mIoU, %", marks=True)),
    ]


def _thin(steps, values):
    """At most POINTS points: means of neighbours, each at the last of their steps."""
    size = -(-len(steps) // POINTS) or 1
    starts = range(0, len(steps), size)
    return [steps[i : i + size][-1] for i in starts], [float(np.mean(values[i : i + size])) for i in starts]


def classes(runs) -> dict | None:
    """IoU of every class in every run; then the last run's difference to the first, or a single run's accuracy."""
    shown = [(i, run) for i, run in enumerate(runs) if run.metrics.get("iou")]
    if not shown:
        return None
    several, first = len(shown) > 1, shown[0][1]
    accuracies = {} if several else first.metrics.get("acc") or {}
    palette = first.palette

    def row(name, values, accuracy, total=False):
        last = percent(accuracy) if accuracies else _change(values[0], values[-1]) if several else None
        bars = [(i, value) for (i, _), value in zip(shown, values, strict=True)]
        return {"name": name, "color": None if total else palette.get(name), "bars": bars, "last": last, "total": total}

    rows = [
        row(name, [run.metrics["iou"].get(name) for _, run in shown], accuracies.get(name))
        for name in first.metrics["iou"]
    ]
    rows.append(
        row(
            mean_of(first.metrics["iou"]),
            [run.metrics.get("miou") for _, run in shown],
            first.metrics.get("macc"),
            total=True,
        )
    )
    return {
        "protocol": _protocol(first),
        "heads": [f"IoU %, {run.name}" if several else "IoU %" for _, run in shown]
        + (["difference"] if several else ["accuracy %"] if accuracies else []),
        "rows": rows,
    }


def _change(before, after) -> str:
    return "–" if before is None or after is None else f"{100 * (after - before):+.2f}"


def _protocol(run) -> str:
    """How a run was evaluated, in words."""
    options = run.metrics.get("protocol") or run.config.get("eval") or {}
    words = ["every image once"]
    if options.get("mode") == "slide":
        window, stride = ("x".join(map(str, options[key])) for key in ("window", "stride"))
        words.append(f"by windows of {window} (height x width) every {stride}")
    else:
        words.append("whole")
    if options.get("tta"):
        words.append("mean of twelve views (six scales, plain and mirrored)")
    elif options.get("scale"):
        words.append(f"fitted to {'x'.join(map(str, options['scale']))} for the network")
    split = run.metrics.get("data_set", {}).get("val_split")
    return f"On the {f'split {split}' if split else 'validation set'}: {', '.join(words)}."


def equalizer(runs) -> dict | None:
    """The measured statistics of the first run that has them; means over channels where they are per channel."""
    run = next((run for run in runs if run.equalizer.get("rows")), None)
    if run is None:
        return None
    rows, sites = run.equalizer["rows"], {}
    for row in rows:
        std = float(np.mean(row["std"]))
        if std > 0 and math.isfinite(std):
            sites.setdefault(row["site"], []).append((str(row["branch"]), std))
    checked = all(row.get("checked_std") is not None for row in rows)

    def numbers(row):
        ratio = row.get("ratio")
        found = [f"{np.mean(row['mean']):.4g}", f"{np.mean(row['std']):.4g}"]
        found.append("" if ratio is None else f"{np.mean(ratio):.3f}")
        return found + ([f"{row['checked_mean']:.4f}", f"{row['checked_std']:.4f}"] if checked else [])

    return {
        "run": run.name,
        "channels": any(np.ndim(row["std"]) for row in rows),
        "checked": checked,
        "chart": charts.bars(list(sites.items()), x_label="standard deviation before equalizing"),
        "rows": [{"site": row["site"], "branch": row["branch"], "numbers": numbers(row)} for row in rows],
    }


def samples(runs) -> dict | None:
    """Validation images with their truth and the prediction of every run; those that all runs have."""
    runs = [run for run in runs if run.samples]
    if not runs:
        return None
    first = runs[0].samples
    palette = first["palette"]
    keys = sorted((key.removeprefix("image_") for key in first if key.startswith("image_")), key=int)
    keys = [key for key in keys if all(f"prediction_{key}" in run.samples for run in runs)]
    masks = {key: [first[f"truth_{key}"], *(run.samples[f"prediction_{key}"] for run in runs)] for key in keys}
    return {
        "legend": [*zip(first["names"], palette, strict=True), ("ignored", pictures.IGNORED)],
        "heads": ["image", "truth"] + [f"prediction, {run.name}" if len(runs) > 1 else "prediction" for run in runs],
        "rows": [
            {"photo": pictures.photo(first[f"image_{key}"]), "masks": [pictures.mask(m, palette) for m in masks[key]]}
            for key in keys
        ],
    }


def segments(runs) -> list[dict]:
    """For each run that has such, the masks that one image's prediction is made of: the image, dark outside of them."""
    shown = []
    for run in runs:
        if not (found := run.segments):
            continue
        image = found["image"]
        light = 0.25 + 0.75 * found["mask"][..., None] / 255
        cells = [
            {
                "photo": pictures.photo((image * mask).astype(np.uint8)),
                "name": found["names"][class_id],
                "color": found["palette"][class_id],
                "score": f"{score:.2f}",
            }
            for mask, class_id, score in zip(light, found["class_id"], found["score"], strict=True)
        ]
        shown.append({"run": run.name if len(runs) > 1 else "", "photo": pictures.photo(image), "cells": cells})
    return shown


def side_by_side(results: dict) -> str:
    """The per-class IoU of several results, one column each, and the difference of the last to the first."""

    def cell(value):
        return f"{'-' if value is None else format(100 * value, '.2f'):>22}"

    def line(name, values):
        change = "-" if None in (values[0], values[-1]) else f"{100 * (values[-1] - values[0]):+.2f}"
        return f"{name:<10}{''.join(map(cell, values))}{change:>12}"

    arms, found = list(results), list(results.values())
    names = list(dict.fromkeys(name for result in found for name in result["iou"]))
    rule = "-" * (22 + 22 * len(arms))
    lines = [f"{'IoU, %':<10}{''.join(f'{arm:>22}' for arm in arms)}{'difference':>12}", rule]
    lines += [line(name, [result["iou"].get(name) for result in found]) for name in names]
    return "\n".join([*lines, rule, line(mean_of(found[0]["iou"]), [result["miou"] for result in found])])
