"""Trains a config with every combination of some options, and with several seeds; one table and one page of all.

python -m se_jax.sweep --config=configs/shapes_uper.py --workdir=runs/sweep \\
    --set optimizer.learning_rate=0.01,0.03 --set model.equalizer.mode=none,explicit --seeds=3 [--jobs=1]
    [--config.a.b=value]

Every run is a process of `python -m se_jax.main` of its own, in a directory of its own below the workdir, where its
output is kept in log.txt. The same command goes on where it was stopped: finished runs are left as they are, others go
on from their last checkpoint. A run that fails is named, and the others are done.
"""

import concurrent.futures
import itertools
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

from se_jax import cli, progress, run
from se_jax.config import recipes
from se_jax.report import pages

LOG = "log.txt"
DONE = "sweep.json"  # the command of a run that has ended well


def main(argv: list[str]) -> None:
    """Command line."""
    from absl import app, flags

    flags.DEFINE_string("config", None, "Of all runs, as of `python -m se_jax.main`.", required=True)
    flags.DEFINE_string("workdir", None, "Directory for the runs and the page.", required=True)
    flags.DEFINE_multi_string("set", [], "An option and its values: optimizer.learning_rate=0.01,0.03.")
    flags.DEFINE_integer("seeds", 1, "Runs of each combination, with config.seed = 0, 1, ...", 1)
    flags.DEFINE_integer("jobs", 1, "Processes at a time.", 1)

    def work(arguments):
        given = flags.FLAGS
        try:
            arms = combinations(given.set, given.seeds)
            cli.check_names(recipes.load(given.config), ["", *(option for arm in arms.values() for option in arm)])
            cli.check_names(recipes.load(given.config), arguments)
            workdir = run.make(given.workdir)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.sweep: {error}")
        with cli.ending("se_jax.sweep"):
            failed = train(arms, given.config, arguments[1:], workdir, given.jobs)
        done = {name: workdir / name for name in arms if name not in failed}
        if done:
            print(table(done))
            print(
                f"\nwritten to {pages.write_comparison(done, workdir / run.REPORT, title=f'Sweep of {given.config}')}"
            )
        if failed:
            sys.exit("se_jax.sweep: failed:" + "".join(f"\n  {name}: {workdir / name / LOG}" for name in failed))

    own = [argument for argument in argv if not argument.startswith("--config.")]
    overrides = [argument for argument in argv if argument.startswith("--config.")]
    app.run(work, argv=own, flags_parser=lambda argv: [*flags.FLAGS(_joined(argv)), *overrides])


def _joined(argv: list[str]) -> list[str]:
    """The arguments, '--set a=b c=d' with as many values as follow as '--set=a=b --set=c=d'."""
    joined, follows = [], False
    for argument in argv:
        if argument in ("--set", "-set"):
            follows = True
            continue
        if follows and not argument.startswith("-"):
            argument = f"--set={argument}"
        else:
            follows = False
        joined.append(argument)
    return joined


def combinations(sets: list[str], seeds: int) -> dict[str, list[str]]:
    """{name of a run's directory: its arguments} of 'option=value,value' given for several options.

    A value with commas in brackets, (360, 480), is one.

    Raises:
      ValueError: an entry has no '=' or no value.
    """
    options = []
    for entry in sets:
        option, equals, values = entry.partition("=")
        parts = [value.strip() for value in re.split(r",(?![^(\[]*[)\]])", values)]
        if not equals or not all(parts):
            raise ValueError(f"--set {entry}: expected OPTION=VALUE,VALUE, e.g. optimizer.learning_rate=0.01,0.03")
        options.append([(option.removeprefix("config."), value) for value in parts])
    arms = {}
    for chosen in itertools.product(*options):
        name = ",".join(f"{option.rpartition('.')[2]}={value}" for option, value in chosen) or "config"
        for seed in range(seeds):
            arguments = [f"--config.{option}={value}" for option, value in chosen]
            if seeds > 1:
                arguments.append(f"--config.seed={seed}")
            arms[re.sub(r"[^\w=.,+-]", "_", name) + (f",seed={seed}" if seeds > 1 else "")] = arguments
    if len(arms) != len(list(itertools.product(*options))) * seeds:
        raise ValueError(f"--set gives two combinations the same name; they are {', '.join(arms)}")
    return arms


def train(arms: dict[str, list[str]], config: str, shared: list[str], workdir: pathlib.Path, jobs: int) -> list[str]:
    """Runs the arms that are not done, `jobs` at a time; returns the names of those that failed."""
    failed, begun = [], time.monotonic()

    def one(name: str) -> tuple[str, int]:
        place = run.make(workdir / name)
        command = ["-m", "se_jax.main", f"--config={config}", f"--workdir={place}", *shared, *arms[name]]
        if (place / DONE).is_file() and run.read_json(place / DONE) == command:
            return name, 0
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
        with (place / LOG).open("a") as log:
            streams = {"stdout": log, "stderr": subprocess.STDOUT}
            status = subprocess.run([sys.executable, *command], env=environment, **streams).returncode
        if status == 0:
            run.write_json(place / DONE, command)
        return name, status

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for count, ended in enumerate(concurrent.futures.as_completed([pool.submit(one, name) for name in arms]), 1):
            name, status = ended.result()
            how = "done" if status == 0 else f"failed with status {status}"
            seconds = progress.clock(time.monotonic() - begun)
            progress.say(f"{count}/{len(arms)} runs, {seconds}: {name} {how}")
            if status:
                failed.append(name)
    return failed


def table(runs: dict[str, pathlib.Path]) -> str:
    """The mean IoU of every run, and of those that differ in their seed alone the mean and standard deviation."""
    scores: dict[str, list[float]] = {}
    for name, workdir in runs.items():
        score = 100 * (run.read_json(workdir / run.METRICS)["miou"] or 0.0)
        scores.setdefault(re.sub(r",?seed=\d+$", "", name), []).append(score)
    width = max(map(len, scores))
    lines = [f"{'run':<{width}}  {'mIoU %':>7}  {'std':>6}  {'runs':>4}  each"]
    for name, found in sorted(scores.items(), key=lambda item: -statistics.mean(item[1])):
        spread = f"{statistics.stdev(found):6.2f}" if len(found) > 1 else f"{'-':>6}"
        each = " ".join(f"{score:.2f}" for score in found)
        lines.append(f"{name:<{width}}  {statistics.mean(found):7.2f}  {spread}  {len(found):>4}  {each}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv)
