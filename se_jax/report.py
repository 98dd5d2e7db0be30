"""The report of a run: one self-contained HTML page, which loads nothing from anywhere.

`write(workdir)` reads only what the run left in its workdir (config.json, metrics.json, history.jsonl, equalizer.json,
samples.npz, environment.json) and leaves out the parts whose file is missing; `write_comparison` shows several runs.
"""

import base64
import dataclasses
import html
import io
import json
import math
import pathlib

import numpy as np
from PIL import Image

from se_jax import svg

PICTURE = 420  # widest embedded picture, in pixels
POINTS = 400  # most points of a curve


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

    @classmethod
    def read(cls, name: str, workdir) -> "Run":
        workdir = pathlib.Path(workdir)
        if not workdir.is_dir():
            raise FileNotFoundError(f"no report: {workdir} is no directory; give the workdir of a run")

        def load(file, empty):
            path = workdir / file
            return json.loads(path.read_text()) if path.exists() else empty

        lines = (workdir / "history.jsonl").read_text().splitlines() if (workdir / "history.jsonl").exists() else []
        samples = {}
        if (workdir / "samples.npz").exists():
            with np.load(workdir / "samples.npz") as arrays:
                samples = {key: arrays[key] for key in arrays.files}
        equalizer = load("equalizer.json", [])
        if isinstance(equalizer, dict):
            equalizer = equalizer.get("rows", [])
        return cls(
            name,
            load("config.json", {}),
            load("metrics.json", {}),
            [json.loads(line) for line in lines if line.strip()],
            equalizer,
            load("environment.json", {}),
            samples,
        )

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
    path = workdir / "report.html"
    path.write_text(_page(f"Run {run.name}", [run], None), encoding="utf-8")
    return path


def write_comparison(workdirs: dict, path, *, title: str = "Comparison", note: str | None = None) -> pathlib.Path:
    """Write one page with several runs side by side and return its path.

    Args:
      workdirs: {name shown: workdir}, in the order of the columns; differences are to the first.
      note: text under the title, one paragraph a line.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(title, [Run.read(name, w) for name, w in workdirs.items()], note), encoding="utf-8")
    return path


# ---- The page and its parts: lists of runs -> HTML ----


def _page(title: str, runs: list[Run], note: str | None) -> str:
    parts = [_tiles(runs), _curves(runs), _classes(runs), _equalizer(runs), _samples(runs), _setup(runs)]
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in (note or "").splitlines() if line.strip())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{html.escape(title)}</h1><p class=sub>{_subtitle(runs[0])}</p>{notes}</header>"
        + "".join(parts)
        + "</main></body></html>\n"
    )


def _section(title: str, body: str, text: str = "") -> str:
    text = f'<p class="text">{text}</p>' if text else ""
    return f"<section><h2>{html.escape(title)}</h2>{text}{body}</section>" if body else ""


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


def _percent(value, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def _tiles(runs: list[Run]) -> str:
    out = []
    for i, run in enumerate(runs):
        m = run.metrics
        if not m:
            continue
        small = [("mean accuracy", _percent(m.get("macc")) + " %"), ("pixel accuracy", _percent(m.get("aacc")) + " %")]
        small += [(k, f"{m[k]:,}") for k in ("step", "images") if isinstance(m.get(k), int)]
        small += [("equalizer", m["equalizer"])] if m.get("equalizer") else []
        cells = "".join(f"<div><b>{html.escape(str(v))}</b><span>{html.escape(k)}</span></div>" for k, v in small)
        name = f'<h3 style="color:var(--c{i})">{html.escape(run.name)}</h3>' if len(runs) > 1 else ""
        out.append(
            f'<div class="tile" style="border-color:var(--c{i})">{name}<div class=big>{_percent(m.get("miou"))}'
            f"<small> % mIoU</small></div><div class=facts>{cells}</div></div>"
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
    return _section("Training", (f"<div>{key}</div>" if len(runs) > 1 else "") + f'<div class="figures">{body}</div>')


def _swatch(color) -> str:
    return f'<i class="swatch" style="background:rgb({",".join(str(int(c)) for c in color)})"></i>'


def _classes(runs: list[Run]) -> str:
    runs = [(i, run) for i, run in enumerate(runs) if run.metrics.get("iou")]
    if not runs:
        return ""
    _, first = runs[0]
    palette = dict(zip(first.samples.get("names", []), first.samples.get("palette", []), strict=False))
    several = len(runs) > 1
    heads = [f"IoU %{', ' + run.name if several else ''}" for _, run in runs]
    heads += ["difference"] if several else (["accuracy %"] if first.metrics.get("acc") else [])
    lines = []
    entries = [
        (name, [run.metrics["iou"].get(name) for _, run in runs], first.metrics.get("acc", {}).get(name))
        for name in first.metrics["iou"]
    ]
    entries.append(("mean", [run.metrics.get("miou") for _, run in runs], first.metrics.get("macc")))
    for name, values, accuracy in entries:
        cells = [
            f'<td class="bar"><span style="--v:{v or 0:.4f};background:var(--c{i})"></span><b>{_percent(v)}</b></td>'
            for (i, _), v in zip(runs, values, strict=True)
        ]
        if several:
            both = values[0] is not None and values[-1] is not None
            change = f"{100 * (values[-1] - values[0]):+.2f}" if both else "–"
            cells.append(f'<td class="num">{change}</td>')
        elif first.metrics.get("acc"):
            cells.append(f'<td class="num">{_percent(accuracy)}</td>')
        swatch = _swatch(palette[name]) if name in palette else ""
        last = ' class="total"' if name == "mean" else ""
        lines.append(f"<tr{last}><th>{swatch}{html.escape(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = f"<table><thead><tr><th>class</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return _section("Classes", body, "On the validation set, whole images, every image once.")


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
    return _section("Scale equalizer", f'<div class="pair"><figure>{picture}</figure><div>{table}</div></div>', text)


# ---- Pictures ----


def _data_url(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _photo(image) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE, PICTURE))
    return f'<img alt="" src="{_data_url(picture, "JPEG")}">'


def _mask(mask, palette) -> str:
    step = -(-max(mask.shape) // PICTURE)
    picture = Image.fromarray(np.ascontiguousarray(mask[::step, ::step]))
    colors = np.full((256, 3), 235, np.uint8)  # ignored pixels: light grey
    colors[: len(palette)] = palette
    picture.putpalette(colors.tobytes())
    return f'<img alt="" class="mask" src="{_data_url(picture, "PNG")}">'


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
        cells += _photo(first[f"image_{key}"]) + _mask(first[f"truth_{key}"], palette)
        cells += "".join(_mask(run.samples[f"prediction_{key}"], palette) for run in runs)
    legend = "".join(
        f'<span class="key">{_swatch(color)}{html.escape(str(name))}</span>'
        for name, color in [*zip(first["names"], palette, strict=True), ("ignored", (235, 235, 235))]
    )
    grid = f'<div class="grid-pictures" style="grid-template-columns:repeat({len(heads)},1fr)">{cells}</div>'
    return _section("Validation images", f"<div>{legend}</div>{grid}")


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
    return _section("Set-up", environment + block("Config", [dict(_flat(run.config)) for run in runs], False))


_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2330;--dim:#667085;--rule:#e4e7ec;--c0:#2563c9;--c1:#d9701a;--c2:#1a8f6b;--c3:#8b4fc4;
--c4:#c23b5e;--c5:#6b7a1f;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1b212b;--ink:#e6e9ef;--dim:#96a0b1;--rule:#2e3644;--c0:#6ba1f5;
--c1:#f09b52;--c2:#4cc39c;--c3:#b98be6;--c4:#ef7d9a;--c5:#b5c45a}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
header{margin-bottom:20px}header p{max-width:80ch;margin:8px 0}
h1{font-size:28px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:0 0 10px}h3{font-size:15px;margin:0 0 2px}
.sub,.text,.none{color:var(--dim)}.text{max-width:85ch;margin:-4px 0 14px}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:20px 22px;margin:16px 0;
overflow-x:auto}
.tiles{background:none;border:0;padding:0;display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(320px,1fr))}
.tile{background:var(--card);border:1px solid var(--rule);border-left:4px solid;border-radius:12px;padding:16px 22px}
.big{font-size:44px;font-weight:650;letter-spacing:-.02em;line-height:1.2}
.big small{font-size:18px;color:var(--dim);font-weight:500}
.facts{display:flex;flex-wrap:wrap;gap:8px 28px;margin-top:8px}.facts b{display:block;font-variant-numeric:tabular-nums}
.facts span{color:var(--dim);font-size:12.5px}
.figures{display:grid;gap:20px;grid-template-columns:repeat(auto-fit,minmax(400px,1fr))}
figure{margin:0}figcaption{font-weight:600;margin-bottom:4px}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--dim);font-variant-numeric:tabular-nums}
svg .axis{font-size:12px}svg .group{font-size:13px;font-weight:600;fill:var(--ink)}svg .value{fill:var(--ink)}
svg .grid{stroke:var(--rule)}svg .line{fill:none;stroke-width:2;stroke-linejoin:round}
.pair{display:grid;gap:28px;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));align-items:start}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--rule);font-weight:400}
thead th{color:var(--dim);font-size:12.5px;white-space:nowrap}tbody tr:last-child>*{border-bottom:0}
.num,thead th+th+th{text-align:left}.total>*{font-weight:650;border-top:2px solid var(--rule)}
.bar{position:relative;min-width:170px;white-space:nowrap}.bar b{font-weight:inherit}
.bar span{display:inline-block;vertical-align:middle;height:10px;border-radius:3px;
width:calc(var(--v) * (100% - 64px));margin-right:8px;opacity:.85}
.swatch,.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;vertical-align:-1px;
border:1px solid rgba(128,128,128,.45)}
.key{display:inline-block;margin:0 18px 8px 0;font-size:13.5px}
.grid-pictures{display:grid;gap:8px;min-width:640px}.grid-pictures .head{color:var(--dim);font-size:12.5px}
.grid-pictures img{width:100%;display:block;border-radius:6px}.mask{image-rendering:pixelated}
summary{cursor:pointer;font-weight:600;padding:4px 0}.setup th{color:var(--dim);width:34%}
.setup td{word-break:break-word;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px}
.differs td{font-weight:700}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""
