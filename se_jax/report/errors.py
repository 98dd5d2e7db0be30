"""Sections of the report on what a network gets wrong: its confusion matrix, and each class's worst images."""

import html

import numpy as np
from PIL import Image

from se_jax.evaluation.worst_images import shown
from se_jax.report import charts as svg
from se_jax.report import html as page
from se_jax.report.borders import border, surroundings

PAIRS = 15  # rows of the table of confused pairs
LABEL, PREDICTION, BOTH = (255, 159, 28), (46, 196, 255), (255, 255, 255)  # colours of the borders


def confusions(runs) -> str:
    """The confusion matrix of every run as a picture, and the pairs of classes that are confused most."""
    body = "".join(_confusion(run, several=len(runs) > 1) for run in runs if run.confusion)
    steps = (0.01, 0.1, 0.5, 1)
    key = "".join(
        f'<span class="key">{text}: '
        + " ".join(f"{page.swatch((*color, svg.strength(share)))}{100 * share:g}" for share in steps)
        + " %</span>"
        for text, color in (("right", svg.RIGHT_CELL), ("taken for another class", svg.WRONG_CELL))
    )
    text = (
        "A row holds the pixels that are labelled as a class, and shows in percent which classes they were predicted "
        "as. Rows of classes that no label holds are grey. Point at a row to read it."
    )
    wide = any(len(run.confusion["names"]) > svg.NUMBERED for run in runs if run.confusion)
    return page.section("Confusion matrix", body and f"<div>{key}</div>{body}", text, wide)


def _confusion(run, several: bool) -> str:
    confusion, names = run.confusion["confusion"], [str(name) for name in run.confusion["names"]]
    lines = "".join(
        f"<tr><th>{html.escape(names[row])}</th><td>{html.escape(names[column])}</td>"
        f'<td class="num">{page.percent(share, 1)}</td><td class="num">{confusion[row, column]:,}</td></tr>'
        for row, column, share in pairs(confusion)
    )
    table = (
        "<h3>Most confused</h3><table><thead><tr><th>labelled as</th><th>predicted as</th>"
        f"<th>% of label</th><th>pixels</th></tr></thead><tbody>{lines}</tbody></table>"
    )
    name = f"<h3>{html.escape(run.name)}</h3>" if several else ""
    picture = svg.heat_map(shares(confusion), names, x_label="predicted as", y_label="labelled as")
    return f'{name}<div class="beside"><figure>{picture}</figure><div>{table if lines else ""}</div></div>'


def shares(confusion):
    """Each row of a confusion matrix [K, K] divided by its sum; NaN in rows that are empty."""
    labelled = confusion.sum(1, keepdims=True)
    return np.where(labelled > 0, confusion / np.maximum(labelled, 1), np.nan)


def pairs(confusion, count: int = PAIRS) -> list[tuple[int, int, float]]:
    """(label, prediction, share of the label's pixels) of two different classes, the largest shares first."""
    wrong = np.nan_to_num(shares(confusion))
    np.fill_diagonal(wrong, 0)
    order = np.lexsort((-confusion.ravel(), -wrong.ravel()))[:count]
    rows, columns = np.unravel_index(order, confusion.shape)
    return [(int(r), int(c), float(wrong[r, c])) for r, c in zip(rows, columns, strict=True) if wrong[r, c]]


# ---- The worst images ----


def worst_images(runs) -> str:
    """Of one run, the worst image of the worst classes, and a table of those of every class."""
    if len(runs) > 1 or not runs[0].metrics.get("worst"):
        return ""
    run = runs[0]
    text = (
        "Of every class the images with its lowest IoU (of equal ones, those with more wrong pixels), among the images "
        "whose label or prediction holds it. Shown is the worst image of each of the worst classes; the last picture "
        "is its part around the class, with the class's border."
    )
    return page.section("Worst images", _pictures(run) + _table(run), text)


def _pictures(run) -> str:
    names = [str(name) for name in run.worst.get("names", [])]
    cells = ""
    for name, entry in shown(run.metrics):
        i = entry["index"]
        if f"image_{i}" not in run.worst:
            continue
        image, truth, prediction = (run.worst[f"{kind}_{i}"] for kind in ("image", "truth", "prediction"))
        about = f"{page.percent(entry['iou'], 1)} % IoU, {entry['wrong']:,} wrong pixels in {entry['image']}"
        color = page.swatch(run.worst["palette"][names.index(name)])
        cells += (
            f"<div class=row>{color}<b>{html.escape(name)}</b> <span>{html.escape(about)}</span></div>"
            + page.photo(image)
            + page.mask(truth, run.worst["palette"])
            + page.mask(prediction, run.worst["palette"])
            + page.photo(disagreement(image, truth, prediction, names.index(name)))
        )
    if not cells:
        return ""
    key = "".join(
        f'<span class="key">{page.swatch(color)}{text}</span>'
        for color, text in (
            (LABEL, "border of the label, and pixels that were missed"),
            (PREDICTION, "border of the prediction, and pixels that are not of the class"),
            (BOTH, "both borders"),
        )
    )
    heads = "".join(f"<div class=head>{head}</div>" for head in ("image", "truth", "prediction", "the class's border"))
    columns = "grid-template-columns:repeat(4,1fr)"
    return f'<div>{key}</div><div class="grid-pictures" style="{columns}">{heads}{cells}</div>'


def disagreement(image, truth, prediction, k: int):
    """Where the borders of class k lie in label and prediction, over the image in grey: uint8 [h', w', 3].

    Args:
      image: uint8 [h, w, 3]. truth, prediction: uint8 [h, w] of class ids; where the truth is 255 nothing is tinted.
    """
    kept = truth != 255
    ours, theirs = prediction == k, truth == k
    part = surroundings(theirs | (ours & kept))
    image, kept, ours, theirs = (array[part] for array in (image, kept, ours, theirs))
    height, width = kept.shape
    scale = page.PICTURE / max(height, width)
    size = [max(round(side * scale), 1) for side in (height, width)]
    rows, columns = (np.arange(length) * side // length for length, side in zip(size, (height, width), strict=True))
    kept, ours, theirs = (array[rows][:, columns] for array in (kept, ours, theirs))
    grey = Image.fromarray(image).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    picture = np.repeat(np.asarray(grey, np.float32)[..., None] * 0.7, 3, axis=2)
    for color, where in ((LABEL, theirs & ~ours & kept), (PREDICTION, ours & ~theirs & kept)):
        picture[where] = picture[where] * 0.6 + np.float32(color) * 0.4
    line, other = border(theirs), border(ours)
    for color, where in ((LABEL, line), (PREDICTION, other), (BOTH, line & other)):
        picture[where] = color
    return picture.round().astype(np.uint8)


def _table(run) -> str:
    found = run.metrics["worst"]
    most = max(map(len, found.values()), default=0)
    lines = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="num">{page.percent(run.metrics["iou"].get(name), 1)}</td>'
        + "".join(f"<td>{html.escape(e['image'])} <small>{page.percent(e['iou'], 1)}</small></td>" for e in entries)
        + "<td></td>" * (most - len(entries))
        + "</tr>"
        for name, entries in found.items()
    )
    heads = "<th>class</th><th>IoU %</th><th>worst image, its IoU %</th>" + "<th>then</th>" * (most - 1)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<details><summary>Worst images of every class</summary>{table}</details>" if most else ""
