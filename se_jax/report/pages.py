"""The report of a run: one self-contained HTML page, which loads nothing from anywhere.

`write(workdir)` reads only what the run left in its workdir (see `FILES`) and leaves out the parts whose file is
missing; `write_evaluation` does so for the last evaluation of it; `write_comparison` shows several runs.
"""

import dataclasses
import html
import json
import math
import pathlib

import numpy as np

from se_jax import run as files
from se_jax.evaluation.metrics import mean_of
from se_jax.report import charts as svg
from se_jax.report import errors as mistakes
from se_jax.report import html as page

POINTS = 400  # most points of a curve
# what a page reads of a workdir: what a run leaves there, and what an evaluation of it does
FILES = {
    "config": files.CONFIG,
    "metrics": files.METRICS,
    "history": files.HISTORY,
    "equalizer": files.EQUALIZER,
    "environment": files.ENVIRONMENT,
    "samples": files.SAMPLES,
    "confusion": files.CONFUSION,
    "worst": files.WORST,
}
EVALUATION = {
    "config": files.CONFIG,
    "metrics": f"{files.EVALUATION}.json",
    "confusion": f"{files.EVALUATION}_{files.CONFUSION}",
    "worst": f"{files.EVALUATION}_{files.WORST}",
}


@dataclasses.dataclass
class Run:
    """What a workdir holds; empty where a file is missing."""

    name: str
    config: dict
    metrics: dict
    history: list
    equalizer: list
    environment: dict
    samples: dict
    confusion: dict
    worst: dict

    @classmethod
    def read(cls, name: str, workdir, names: dict = FILES) -> "Run":
        workdir = pathlib.Path(workdir)
        if not workdir.is_dir():
            raise FileNotFoundError(f"no report: {workdir} is no directory; give the workdir of a run")

        def load(key):
            path = workdir / names.get(key, "")
            if not path.is_file():
                return [] if key in ("history", "equalizer") else {}
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    return {key: arrays[key] for key in arrays.files}
            if path.suffix == ".jsonl":
                return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            return json.loads(path.read_text())

        run = cls(name, **{field.name: load(field.name) for field in dataclasses.fields(cls)[1:]})
        if isinstance(run.equalizer, dict):
            run.equalizer = run.equalizer.get("rows", [])
        return run

    @property
    def palette(self) -> dict:
        """{class: its colour}."""
        arrays = self.confusion or self.samples
        return dict(zip(arrays.get("names", []), arrays.get("palette", []), strict=True))

    def curve(self, key: str) -> tuple[list, list]:
        """Steps and values of one entry of the history; a step written twice (a resumed run) keeps its last value."""
        values = {entry["step"]: entry[key] for entry in self.history if entry.get(key) is not None}
        steps = sorted(values)
        return steps, [float(values[step]) for step in steps]


def write(workdir) -> pathlib.Path:
    """Write `workdir/report.html` and return its path.

    Raises:
      FileNotFoundError: `workdir` is no directory.
    """
    workdir = pathlib.Path(workdir)
    run = Run.read(workdir.resolve().name, workdir)
    return files.write_text(workdir / files.REPORT, _page(f"Run {run.name}", [run], None))


def write_evaluation(workdir) -> pathlib.Path:
    """Write `workdir/evaluation.html`, on the last evaluation of a run, and return its path."""
    workdir = pathlib.Path(workdir)
    run = Run.read(workdir.resolve().name, workdir, EVALUATION)
    return files.write_text(workdir / f"{files.EVALUATION}.html", _page(f"Evaluation of {run.name}", [run], None))


def write_comparison(workdirs: dict, path, *, title: str = "Comparison", note: str | None = None) -> pathlib.Path:
    """Write one page with several runs side by side and return its path.

    Args:
      workdirs: {name shown: workdir}, in the order of the columns; differences are to the first.
      note: text under the title, one paragraph a line.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write_text(path, _page(title, [Run.read(name, w) for name, w in workdirs.items()], note))


# ---- The page and its parts: lists of runs -> HTML ----


def _page(title: str, runs: list[Run], note: str | None) -> str:
    parts = [_tiles(runs), _curves(runs), _classes(runs), mistakes.confusions(runs), mistakes.worst_images(runs)]
    parts += [_equalizer(runs), _samples(runs), _setup(runs)]
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in (note or "").splitlines() if line.strip())
    warnings = dict.fromkeys(warning for run in runs for warning in run.metrics.get("warnings", ()))
    notes += "".join(f"<p><b>Warning:</b> {html.escape(warning)}</p>" for warning in warnings)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{page.STYLE}</style></head><body><main>"
        f"<header><h1>{html.escape(title)}</h1><p class=sub>{_subtitle(runs[0])}</p>{notes}</header>"
        + "".join(parts)
        + "</main></body></html>\n"
    )


def _subtitle(run: Run) -> str:
    model, data = run.config.get("model", {}), run.config.get("data", {})
    encoder, decoder = model.get("encoder") or {}, model.get("decoder") or {}
    words = [
        " ".join(str(encoder[key]) for key in ("name", "depth", "variant") if encoder.get(key)),
        f"{decoder['name']} head" if "name" in decoder else "",
        f"{model['num_classes']} classes" if "num_classes" in model else "",
        f"data {data['name']}" if "name" in data else "",
        f"seed {run.config['seed']}" if "seed" in run.config else "",
    ]
    return " · ".join(html.escape(word) for word in words if word)


def _tiles(runs: list[Run]) -> str:
    out = []
    for i, run in enumerate(runs):
        m = run.metrics
        if not m:
            continue
        small = [
            (mean_of(m.get("acc", {})).replace("mean", "mean accuracy", 1), page.percent(m.get("macc")) + " %"),
            ("pixel accuracy", page.percent(m.get("aacc")) + " %"),
        ]
        small += [(k, f"{m[k]:,}") for k in ("step", "images") if isinstance(m.get(k), int)]
        small += [(k, m[k]) for k in ("equalizer", "checkpoint") if m.get(k)]
        cells = "".join(f"<div><b>{html.escape(str(v))}</b><span>{html.escape(k)}</span></div>" for k, v in small)
        name = f'<h3 style="color:var(--c{i})">{html.escape(run.name)}</h3>' if len(runs) > 1 else ""
        over = mean_of(m.get("iou", {})).removeprefix("mean")
        over = f", the mean{over}" if over else ""
        out.append(
            f'<div class="tile" style="border-color:var(--c{i})">{name}<div class=big>{page.percent(m.get("miou"))}'
            f"<small> % mIoU{over}</small></div><div class=facts>{cells}</div></div>"
        )
    return f'<section class="tiles">{"".join(out)}</section>' if out else ""


def _thin(steps, values):
    """At most POINTS points: means of neighbours."""
    size = -(-len(steps) // POINTS)
    chunks = range(0, len(steps), size or 1)
    return [steps[min(i + size, len(steps)) - 1] for i in chunks], [
        float(np.mean(values[i : i + size])) for i in chunks
    ]


def _curves(runs: list[Run]) -> str:
    if not any(run.history for run in runs):
        return ""
    loss = [(run.name, i, *_thin(*run.curve("loss"))) for i, run in enumerate(runs)]
    miou = [(run.name, i, *run.curve("miou")) for i, run in enumerate(runs)]
    miou = [(name, i, steps, [100 * v for v in values]) for name, i, steps, values in miou]
    figures = [
        ("Training loss", svg.lines(loss, x_label="step", y_label="loss")),
        ("Validation mIoU", svg.lines(miou, x_label="step", y_label="mIoU, %", marks=True)),
    ]
    key = "".join(
        f'<span class="key"><i style="background:var(--c{i})"></i>{html.escape(run.name)}</span>'
        for i, run in enumerate(runs)
    )
    body = "".join(f"<figure><figcaption>{name}</figcaption>{chart}</figure>" for name, chart in figures)
    return page.section(
        "Training", (f"<div>{key}</div>" if len(runs) > 1 else "") + f'<div class="figures">{body}</div>'
    )


def _classes(runs: list[Run]) -> str:
    runs = [(i, run) for i, run in enumerate(runs) if run.metrics.get("iou")]
    if not runs:
        return ""
    _, first = runs[0]
    palette = first.palette
    several = len(runs) > 1
    heads = [f"IoU %{', ' + run.name if several else ''}" for _, run in runs]
    heads += ["difference"] if several else (["accuracy %"] if first.metrics.get("acc") else [])
    lines = []
    entries = [
        (name, [run.metrics["iou"].get(name) for _, run in runs], first.metrics.get("acc", {}).get(name))
        for name in first.metrics["iou"]
    ]
    mean = mean_of(first.metrics["iou"])
    entries.append((mean, [run.metrics.get("miou") for _, run in runs], first.metrics.get("macc")))
    for name, values, accuracy in entries:
        cells = [
            f'<td class="bar"><span style="--v:{v or 0:.4f};background:var(--c{i})"></span>'
            f"<b>{page.percent(v)}</b></td>"
            for (i, _), v in zip(runs, values, strict=True)
        ]
        if several:
            both = values[0] is not None and values[-1] is not None
            change = f"{100 * (values[-1] - values[0]):+.2f}" if both else "–"
            cells.append(f'<td class="num">{change}</td>')
        elif first.metrics.get("acc"):
            cells.append(f'<td class="num">{page.percent(accuracy)}</td>')
        swatch = page.swatch(palette[name]) if name in palette else ""
        last = ' class="total"' if name is mean else ""
        lines.append(f"<tr{last}><th>{swatch}{html.escape(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = f"<table><thead><tr><th>class</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return page.section("Classes", body, _protocol(first))


def _protocol(run: Run) -> str:
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
    return html.escape(f"On the {f'split {split}' if split else 'validation set'}: {', '.join(words)}.")


def _number(value) -> float:
    """A statistic as one number; the mean over channels where it was measured per channel."""
    return float(np.mean(value))


def _equalizer(runs: list[Run]) -> str:
    run = next((run for run in runs if run.equalizer), None)
    if run is None:
        return ""
    sites, lines = {}, []
    checked = all(row.get("checked_std") is not None for row in run.equalizer)
    for row in run.equalizer:
        sites.setdefault(row["site"], []).append((str(row["branch"]), _number(row["std"])))
        ratio = row.get("ratio")
        numbers = [
            f"{_number(row['mean']):.4g}",
            f"{_number(row['std']):.4g}",
            "" if ratio is None else f"{_number(ratio):.3f}",
        ]
        if checked:
            numbers += [f"{row['checked_mean']:.4f}", f"{row['checked_std']:.4f}"]
        cells = "".join(f'<td class="num">{n}</td>' for n in numbers)
        lines.append(f"<tr><th>{html.escape(row['site'])}</th><td>{html.escape(str(row['branch']))}</td>{cells}</tr>")
    head = "<th>site</th><th>branch</th><th>mean</th><th>std</th><th>ratio</th>"
    head += "<th>mean, after</th><th>std, after</th>" if checked else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    groups = [(site, [(b, s) for b, s in branches if s > 0 and math.isfinite(s)]) for site, branches in sites.items()]
    picture = svg.bars([g for g in groups if g[1]], x_label="standard deviation before equalizing")
    channels = any(np.ndim(row["std"]) for row in run.equalizer)
    text = (
        "Every branch x that enters a fusion becomes (x − mean) / std, so that all branches of a site start at mean 0 "
        "and standard deviation 1. The constants were measured over the training set before training"
        + (", per channel; shown are means over channels." if channels else ".")
        + " Ratio: a branch's standard deviation to that of the site's widest."
        + (" The last two columns were measured on other images, after equalizing." if checked else "")
        + (f" Run: {html.escape(run.name)}." if len(runs) > 1 else "")
    )
    return page.section(
        "Scale equalizer", f'<div class="pair"><figure>{picture}</figure><div>{table}</div></div>', text
    )


# ---- Pictures ----


def _samples(runs: list[Run]) -> str:
    runs = [run for run in runs if run.samples]
    if not runs:
        return ""
    first = runs[0].samples
    palette = first["palette"]
    keys = sorted((key[len("image_") :] for key in first if key.startswith("image_")), key=int)
    keys = [key for key in keys if all(f"prediction_{key}" in run.samples for run in runs)]
    heads = ["image", "truth"] + [f"prediction{', ' + run.name if len(runs) > 1 else ''}" for run in runs]
    cells = "".join(f"<div class=head>{html.escape(head)}</div>" for head in heads)
    for key in keys:
        cells += page.photo(first[f"image_{key}"]) + page.mask(first[f"truth_{key}"], palette)
        cells += "".join(page.mask(run.samples[f"prediction_{key}"], palette) for run in runs)
    legend = "".join(
        f'<span class="key">{page.swatch(color)}{html.escape(str(name))}</span>'
        for name, color in [*zip(first["names"], palette, strict=True), ("ignored", page.IGNORED)]
    )
    grid = f'<div class="grid-pictures" style="grid-template-columns:repeat({len(heads)},1fr)">{cells}</div>'
    return page.section("Validation images", f"<div>{legend}</div>{grid}")


# ---- Config and environment ----


def _flat(value, prefix="") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, str(value))]


def _setup(runs: list[Run]) -> str:
    def block(title, runs_values, open_):
        keys = list(dict.fromkeys(key for values in runs_values for key in values))
        rows = ""
        for key in keys:
            values = [values.get(key, "–") for values in runs_values]
            mark = ' class="differs"' if len(set(values)) > 1 else ""
            rows += (
                f"<tr{mark}><th>{html.escape(key)}</th>"
                + "".join(f"<td>{html.escape(v)}</td>" for v in values)
                + "</tr>"
            )
        head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs) if len(runs) > 1 else ""
        head = f"<thead><tr><th></th>{head}</tr></thead>" if head else ""
        return (
            f"<details{' open' if open_ else ''}><summary>{title}</summary>"
            f'<table class="setup">{head}{rows}</table></details>'
            if rows
            else ""
        )

    environment = block("Environment", [dict(_flat(run.environment)) for run in runs], True)
    return page.section("Set-up", environment + block("Config", [dict(_flat(run.config)) for run in runs], False))
