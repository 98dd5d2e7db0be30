"""How unequal the branches of a network's fusion sites are, why, and what that does to gradients.

python -m experiments.scales --config=camvid_frozen:uper --config.data.dir=DIR [--steps=240] [--images=64] [--seed=0] \\
    [--arms=none,explicit]

Of every branch of every site: its standard deviation before and after the resize, mean, autocorrelation of neighbours
along rows and columns, the share of the variance that the resize keeps, measured and by the closed form of
`experiments.variance`; and of every site, how much of the disequilibrium comes from the encoder, the resize and the
pooling. Then, for networks without, with explicit and with folded equalizers: the gradient of the weights behind each
branch (root mean square a weight) relative to that of the site's first branch, beside the ratio that the standard
deviations predict; before the first step and, with --steps, while the head is trained on features of an encoder that is
not. Weights from chance, without init_from, go through their BatchNorms by batch statistics.

Prints tables, adds a line to --results, and writes a page into --workdir.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging

from se_jax import cli

MODES = ("none", "explicit", "folded")
NOTE = """\
A branch's kind says where its scale comes from: a raw map of the encoder, a pooled and normalised map, or another \
normalised map of the head. Shares are of the spread of log std over the branches of a site and sum to 1. 'Kept' is \
the share of a branch's variance, over images, channels and pixels, that the resize leaves; 'expected' is the closed \
form with the measured autocorrelation, 'white' that for white noise within a map."""


def measure(config, pool, images: int, seed: int, steps: int, modes=MODES) -> dict:
    """{'sites': rows by site and branch, 'shares': by site, 'gradients': a list of rows of arm, step and branch}.

    Raises:
      ValueError: a site cannot be folded, with 'folded' among the modes.
    """
    import jax

    from experiments import arms, heads, slopes, variance

    sites, gradients = {}, []
    starts = heads.Starts(pool)
    for mode in modes:
        changed, control = arms.changed(config, arms.ARMS[mode], num_steps=steps)
        head = heads.Head(changed, control, starts)
        meter, gradient = variance.Meter(head.decoder), slopes.Slopes(head)
        moments = {0, min(100, steps), steps}

        def look(step, states, mode=mode, head=head, meter=meter, gradient=gradient, moments=moments):
            if step not in moments:
                return
            state = jax.tree.map(lambda leaf: leaf[0], states)
            rows = meter(head.variables(states, 0), pool.batches(slopes.BATCH, images))
            if not sites:
                sites.update(rows)
            gradients.extend({"arm": mode, "step": step, **row} for row in gradient.rows(state, rows, images))

        head.train([(seed, config.optimizer.learning_rate)], look)
    named = {"/".join(path): rows for path, rows in sites.items()}
    return {"sites": named, "shares": {name: variance.shares(s) for name, s in named.items()}, "gradients": gradients}


BRANCH_HEADS = (
    *("site", "branch", "kind", "from", "to", "mean", "std before", "std after", "ratio", "rho rows", "rho columns"),
    *("kept", "expected", "white"),
)
GRADIENT_HEADS = ("site", "branch", "arm", "step", "std", "gradient", "weights", "gradient ratio", "predicted")
SHARE_HEADS = ("site", "encoder", "resize", "pooling", "head")


def branch_rows(found: dict) -> list[list[str]]:
    """Cells under BRANCH_HEADS; the ratio is to the site's widest branch."""
    lines = []
    for site, rows in found["sites"].items():
        widest = max(row["std_after"] for row in rows.values())
        for key, row in rows.items():
            size = ["x".join(map(str, row[name])) for name in ("source", "target")]
            numbers = [row["mean"], row["std_before"], row["std_after"], row["std_after"] / widest, *row["correlation"]]
            numbers += [row["kept"], row["kept_expected"], row["kept_white"]]
            name = key.partition("_")[2]
            lines.append([_last(site), name, row["kind"], *size, *(f"{number:.3f}" for number in numbers)])
    return lines


def share_rows(found: dict) -> list[list[str]]:
    """Cells under SHARE_HEADS, in percent."""
    return [
        [_last(site), *(f"{100 * of[part]:.0f} %" for part in SHARE_HEADS[1:])] for site, of in found["shares"].items()
    ]


def gradient_rows(found: dict) -> list[list[str]]:
    """Cells under GRADIENT_HEADS."""
    return [
        [_last(row["site"]), row["branch"].partition("_")[2], row["arm"], str(row["step"])]
        + [f"{row[key]:.3g}" for key in ("std", "gradient", "weights")]
        + [f"{row[key]:.3f}" for key in ("ratio", "predicted")]
        for row in found["gradients"]
    ]


def _last(site: str) -> str:
    return site.rpartition("/")[2]


def write(found: dict, path, title: str) -> pathlib.Path:
    """Writes the page with the tables and their pictures."""
    from se_jax.report import charts, pages

    groups = [
        (
            _last(site),
            [
                (f"{key.partition('_')[2]} {when}", row[f"std_{when}"])
                for key, row in rows.items()
                for when in ("before", "after")
            ],
        )
        for site, rows in found["sites"].items()
    ]
    steps = sorted({row["step"] for row in found["gradients"]})
    moving = []
    modes = list(dict.fromkeys(row["arm"] for row in found["gradients"]))
    for mode in modes:
        rows = [row for row in found["gradients"] if row["arm"] == mode]
        names = dict.fromkeys((row["site"], row["branch"]) for row in rows)
        for i, name in enumerate(names):
            ys = [row["ratio"] for row in rows if (row["site"], row["branch"]) == name]
            moving.append((mode, (" ".join((_last(name[0]), name[1])), i % 6, steps, ys)))
    figures = [
        (
            f"Gradient ratio, {mode}",
            "lines",
            charts.lines([c for m, c in moving if m == mode], x_label="step", y_label="ratio", marks=True),
        )
        for mode in modes
    ]
    sections = [
        pages.Section(
            "Branches",
            figures=[("", "bars", charts.bars(groups, x_label="standard deviation"))],
            heads=BRANCH_HEADS,
            rows=branch_rows(found),
        ),
        pages.Section("Where the disequilibrium comes from", heads=SHARE_HEADS, rows=share_rows(found)),
        pages.Section(
            "Gradients of the weights behind each branch",
            figures=figures,
            heads=GRADIENT_HEADS,
            rows=gradient_rows(found),
        ),
    ]
    return pages.write_sections(path, title, sections, note=NOTE)


def main(_) -> None:
    given = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with cli.reading_data():
        from experiments import comparison, features, paired, records, slopes
    try:
        if unknown := [arm for arm in given.arms if arm not in MODES]:
            raise ValueError(f"--arms names {', '.join(unknown)}; expected some of {', '.join(MODES)}")
        config, name = given.config, given.name or paired.recipe()
        trained = {"epochs": given.epochs} if given.steps else {"images": given.images}
        pool = features.load(config, "train", pathlib.Path(given.workdir) / "features", **trained)
        images = min(given.images, len(pool)) // slopes.BATCH * slopes.BATCH
        if not images:
            raise ValueError(f"--images={given.images}: expected at least {slopes.BATCH}")
        with cli.ending("experiments.scales"):
            found = measure(config, pool, images, given.seed, given.steps, given.arms)
        for heads, rows in (
            (BRANCH_HEADS, branch_rows(found)),
            (SHARE_HEADS, share_rows(found)),
            (GRADIENT_HEADS, gradient_rows(found)),
        ):
            print(comparison.aligned([heads, *rows]), end="\n\n")
        settings = {"rate": config.optimizer.learning_rate, "steps": given.steps, "images": images}
        records.append(given.results, {"config": name, "seed": given.seed, **settings, **found})
        page = write(found, pathlib.Path(given.workdir) / f"scales_{name.replace(':', '_')}.html", f"Scales of {name}")
        print(f"added to {given.results}; page: {page}")
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.scales: {error}")


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_list("arms", ",".join(MODES), "Networks that are measured, by their equalizer.mode.")
    flags.DEFINE_integer("images", 64, "Training images, augmented, on which is measured.")
    flags.DEFINE_integer("steps", 0, "Steps of training the head; 0: only before the first.")
    flags.DEFINE_integer("seed", 0, "Of the head's weights and the order of images.")
    flags.DEFINE_integer("epochs", 4, "Of augmented training images, whose features are kept, with --steps.")
    flags.DEFINE_string("name", None, "What the network is called in the results; by default its recipe's name.")
    flags.DEFINE_string("results", "experiments/results/scales.jsonl", "File to which a line is added.")
    flags.DEFINE_string("workdir", "runs/scales", "Directory of features and the page.")
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse)
