"""Shows several runs side by side: a table of every class's IoU, and a page with curves, classes and pictures.

python -m se_jax.compare RUN RUN... [--output=comparison.html] [--title=TEXT]

RUN is the workdir of a finished run. Differences are to the first.
"""

import pathlib
import sys

from se_jax import cli, run
from se_jax.report import pages
from se_jax.report.results import side_by_side


def main(argv: list[str]) -> None:
    """Command line."""
    from absl import app, flags

    flags.DEFINE_string("output", "comparison.html", "The page to write.")
    flags.DEFINE_string("title", "Comparison", "Of the page.")

    def work(arguments):
        workdirs = [pathlib.Path(workdir) for workdir in arguments[1:]]
        if len(workdirs) < 2:
            sys.exit("se_jax.compare: name two or more runs: python -m se_jax.compare runs/a runs/b")
        try:
            for workdir in workdirs:
                if not (workdir / run.METRICS).is_file():
                    sys.exit(
                        f"se_jax.compare: {workdir / run.METRICS} is no file; expected the workdir of a finished run"
                    )
            named = dict(zip(names(workdirs), workdirs, strict=True))
            print(side_by_side({name: run.read_json(workdir / run.METRICS) for name, workdir in named.items()}))
            page = pages.write_comparison(named, flags.FLAGS.output, title=flags.FLAGS.title)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.compare: {error}")
        print(f"\nwritten to {page}")

    app.run(work, argv=argv, flags_parser=cli.parse)


def names(workdirs: list[pathlib.Path]) -> list[str]:
    """What runs are called: as many of the last parts of their paths as tell them apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-count:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{number}: {workdir}" for number, workdir in enumerate(workdirs, 1)]  # the same one twice


if __name__ == "__main__":
    main(sys.argv)
