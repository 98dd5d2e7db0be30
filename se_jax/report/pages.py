"""The report of a run: one self-contained HTML page, which loads nothing from anywhere.

`write(workdir)` reads only what the run left in its workdir (see `runs.TRAINING`) and leaves out the parts whose file
is missing; `write_evaluation` does so for the last evaluation of it; `write_comparison` shows several runs, and
`write_sections` whatever tables and charts it is given.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from se_jax import run as files
from se_jax.report import errors, rendering, results
from se_jax.report.runs import EVALUATION, Run


def write(workdir) -> pathlib.Path:
    """Write `workdir/report.html` and return its path.

    Raises:
      FileNotFoundError: `workdir` is no directory.
    """
    workdir = pathlib.Path(workdir)
    run = Run.read(workdir.resolve().name, workdir)
    return files.write_text(workdir / files.REPORT, _page(f"Run {run.name}", [run]))


def write_evaluation(workdir) -> pathlib.Path:
    """Write `workdir/evaluation.html`, on the last evaluation of a run, and return its path."""
    workdir = pathlib.Path(workdir)
    run = Run.read(workdir.resolve().name, workdir, EVALUATION)
    return files.write_text(workdir / f"{files.EVALUATION}.html", _page(f"Evaluation of {run.name}", [run]))


def write_comparison(workdirs: dict, path, *, title: str = "Comparison", note: str = "") -> pathlib.Path:
    """Write one page with several runs side by side and return its path.

    Args:
      workdirs: {name shown: workdir}, in the order of the columns; differences are to the first.
      note: text under the title, one paragraph a line.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write_text(path, _page(title, [Run.read(name, w) for name, w in workdirs.items()], note))


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page of tables and charts.

    Attributes:
      figures: (caption, 'lines', 'bars' or 'intervals', what that function of `charts` gave).
      keys: what the lines' colours 0, 1, ... stand for.
      heads, rows: of a table, as text.
    """

    title: str
    text: str = ""
    figures: Sequence[tuple[str, str, dict[str, Any] | None]] = ()
    keys: Sequence[str] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def write_sections(path, title: str, sections: Sequence[Section], *, note: str = "") -> pathlib.Path:
    """Write a page of tables and charts, as of an experiment over many runs, and return its path.

    note: text under the title, one paragraph a line.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = [line for line in note.splitlines() if line.strip()]
    page = rendering.render("sections.html.jinja", title=title, sections=sections, notes=notes)
    return files.write_text(path, page)


def _page(title: str, runs: list[Run], note: str = "") -> str:
    return rendering.render(
        "page.html.jinja",
        title=title,
        subtitle=_subtitle(runs[0].config),
        notes=[line for line in note.splitlines() if line.strip()],
        warnings=list(dict.fromkeys(warning for run in runs for warning in run.metrics.get("warnings", ()))),
        names=[run.name for run in runs],
        tiles=results.tiles(runs),
        curves=results.curves(runs),
        classes=results.classes(runs),
        confusions=errors.confusions(runs),
        worst=errors.worst_images(runs),
        equalizer=results.equalizer(runs),
        samples=results.samples(runs),
        segments=results.segments(runs),
        environment=_options([run.environment for run in runs]),
        config=_options([run.config for run in runs]),
    )


def _subtitle(config: dict) -> str:
    model, data = config.get("model", {}), config.get("data", {})
    encoder, decoder = model.get("encoder") or {}, model.get("decoder") or {}
    words = [
        " ".join(str(encoder[key]) for key in ("name", "depth", "variant") if encoder.get(key)),
        f"{decoder['name']} head" if "name" in decoder else "",
        f"{model['num_classes']} classes" if "num_classes" in model else "",
        f"data {data['name']}" if "name" in data else "",
        f"seed {config['seed']}" if "seed" in config else "",
    ]
    return " · ".join(word for word in words if word)


def _options(nested: list[dict]) -> list[tuple[str, list[str]]]:
    """Every option of some nested dicts with its value in each: (option, values)."""
    flat = [_flat(values) for values in nested]
    return [(key, [values.get(key, "–") for values in flat]) for key in dict.fromkeys(k for f in flat for k in f)]


def _flat(values: dict, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat
