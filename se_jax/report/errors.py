"""What a network gets wrong: its confusion matrix, and each class's worst images."""

import numpy as np
from PIL import Image

from se_jax.report import charts, pictures
from se_jax.report.borders import border, surroundings

PAIRS = 15  # rows of the table of confused pairs
KEY = (0.01, 0.1, 0.5, 1)  # shares whose colour the key shows
LABEL, PREDICTION, BOTH = (255, 159, 28), (46, 196, 255), (255, 255, 255)  # colours of the borders
SHOWN = 8  # classes whose worst image is shown: a page has a bounded size, however many classes there are


def confusions(runs) -> dict | None:
    """The confusion matrix of every run as a picture, and the pairs of classes that are confused most."""
    runs = [run for run in runs if run.confusion]
    if not runs:
        return None
    return {
        "colors": {"right": charts.RIGHT_CELL, "taken for another class": charts.WRONG_CELL},
        "key": [(share, charts.strength(share)) for share in KEY],
        "wide": any(len(run.confusion["names"]) > charts.NUMBERED for run in runs),
        "matrices": [_matrix(run) for run in runs],
    }


def _matrix(run) -> dict:
    confusion, names = run.confusion["confusion"], [str(name) for name in run.confusion["names"]]
    return {
        "run": run.name,
        "chart": charts.heat_map(shares(confusion), names, x_label="predicted as", y_label="labelled as"),
        "pairs": [
            {"label": names[row], "prediction": names[column], "share": share, "pixels": confusion[row, column]}
            for row, column, share in pairs(confusion)
        ],
    }


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


def worst_images(runs) -> dict | None:
    """The worst image of each of the worst classes, and a table of those of every class; None for several runs."""
    if len(runs) > 1 or not any(runs[0].metrics.get("worst", {}).values()):
        return None
    run = runs[0]
    found, iou = run.metrics["worst"], run.metrics["iou"]
    return {
        "colors": {"label": LABEL, "prediction": PREDICTION, "both": BOTH},
        "examples": [
            _example(run, name, entry) for name, entry in shown(run.metrics) if f"image_{entry['index']}" in run.worst
        ],
        "columns": max(map(len, found.values())),
        "classes": [{"name": name, "iou": iou.get(name), "worst": entries} for name, entries in found.items()],
    }


def _example(run, name: str, entry: dict) -> dict:
    image, truth, prediction = (run.worst[f"{kind}_{entry['index']}"] for kind in ("image", "truth", "prediction"))
    palette, k = run.worst["palette"], [str(n) for n in run.worst["names"]].index(name)
    return entry | {
        "name": name,
        "color": palette[k],
        "photo": pictures.photo(image),
        "masks": [pictures.mask(truth, palette), pictures.mask(prediction, palette)],
        "borders": pictures.photo(disagreement(image, truth, prediction, k)),
    }


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
    scale = pictures.PICTURE / max(height, width)
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


def shown(result: dict) -> list[tuple[str, dict]]:
    """(class, worst image) of the classes with the lowest IoU in a result that has a table, without faultless ones.

    Of classes with the same IoU, 0 mostly, those come first whose worst image has more wrong pixels.
    """
    worst = {name: rows[0] for name, rows in result.get("worst", {}).items() if rows and rows[0]["wrong"]}
    return [
        (name, worst[name])
        for name in sorted(worst, key=lambda name: (result["iou"][name], -worst[name]["wrong"]))[:SHOWN]
    ]
