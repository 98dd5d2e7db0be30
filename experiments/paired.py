"""Compares arms in pairs: runs of the same seed share initial weights, data order and augmentation.

python -m experiments.paired --config=camvid_frozen:uper --config.data.dir=DIR --arms=none,explicit,folded \\
    --seeds=0..15 --rates=0.0015,0.003,0.006 [--arm=sgd=optimizer.name=sgd] [--results=FILE] [--workdir=DIR]

One line of JSON a run is added to the results, so that a stopped command goes on, and any machine can add runs to the
same file. Then, and with --report_only at once, it prints a table of this config's runs in the file, of all rates or of
those that --rates names, and writes a page with pictures beside the features: mean and standard deviation of each arm,
the difference to the first arm over the seeds that both have with its 95 % interval (t), and the difference that so
many pairs could detect.

Every arm is compared at its own best rate of those tried: the one of the highest mean mIoU on the validation split.
What is reported is the mIoU on --test_split, which nothing was chosen by.

With optimizer.freeze=("^encoder/",) the encoder's features are computed once, in --workdir, and heads alone are trained
on them; on an accelerator with --together=N that many runs of an arm at once. Otherwise every run is a whole training.
Arms are named in `experiments.arms`; --arm adds others, each a change of the config.
"""

import os
import pathlib
import platform
import shutil
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # tensorflow only feeds images here; its greetings would be noise

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from se_jax import cli

CURVE = 24  # points of a loss curve that are kept


class Arm(NamedTuple):
    """A config with an arm's options; its control or ''; a digest of both."""

    config: Any
    control: str
    digest: str


def prepare(config, named: dict[str, dict], epochs: int) -> dict[str, Arm]:
    """{name: Arm} of arms given by their options; epochs: of features in the pool.

    Raises:
      ValueError: the config has no such option, an arm with a control trains more than the head, or two arms are one.
    """
    from experiments import arms

    found = {}
    for name, options in named.items():
        changed, control = arms.changed(config, options)
        if control and not is_frozen(config):
            raise ValueError(
                f"the arm {name} has control={control!r}, which changes heads on frozen features only; set "
                "optimizer.freeze=('^encoder/',)"
            )
        found[name] = Arm(changed, control, arms.digest(changed, control, epochs if is_frozen(config) else 0))
        if twin := next((other for other in found if other != name and found[other].digest == found[name].digest), ""):
            raise ValueError(
                f"the arms {twin} and {name} are the same: {named[twin]} and {named[name]} change this config alike, "
                f"whose equalizers are {config.model.equalizer.mode!r}; leave one out, or say what differs"
            )
    return found


def is_frozen(config) -> bool:
    """Whether the encoder is not trained, so that its features can be computed once."""
    return "^encoder/" in config.optimizer.get("freeze", ())


def record(name: str, seed: int, rate: float, arm: Arm, **found) -> dict:
    """A line of the results."""
    import jax

    import se_jax

    device = jax.devices()[0]
    where = {"device": device.device_kind if device.platform != "cpu" else f"cpu, {platform.machine()}"}
    versions = {"se_jax": se_jax.__version__, "jax": jax.__version__}
    found |= {"steps": arm.config.num_steps} | where | versions
    return {"arm": name, "seed": seed, "rate": rate, "digest": arm.digest} | found


def run_frozen(head, runs, splits: dict) -> list[dict]:
    """What runs (seed, rate) of one head reach; splits: {'val' and 'test': their features}."""
    from se_jax.evaluation.metrics import ConfusionMatrix

    begin = time.monotonic()
    states, losses = head.train(runs)
    results = []
    for place in range(len(runs)):
        variables, found = head.variables(states, place), {}
        for split, features in splits.items():
            scores = ConfusionMatrix(features.classes).compute(head.confusion(variables, features))
            found[split] = {"miou": scores["miou"], "iou": scores["iou"]}
        results.append(found | {"loss": thinned(losses[:, place])})
    seconds = (time.monotonic() - begin) / len(runs)
    return [found | {"seconds": round(seconds, 1)} for found in results]


def thinned(losses) -> list[float | None]:
    """At most CURVE points of a curve: means of neighbours, None where one is not finite."""
    size = -(-len(losses) // CURVE) or 1
    means = [float(np.mean(losses[first : first + size])) for first in range(0, len(losses), size)]
    return [mean if np.isfinite(mean) else None for mean in means]


def run_whole(arm: Arm, seed: int, rate: float, workdir: pathlib.Path, test_split: str) -> dict:
    """What one whole training reaches; its checkpoints are removed."""
    import data_pipelines
    from se_jax import checkpoints, run
    from se_jax.evaluation import evaluator
    from se_jax.models import build
    from se_jax.training.loop import train_and_evaluate

    begin, config = time.monotonic(), arm.config.copy_and_resolve_references()
    config.seed, config.optimizer.learning_rate = seed, rate
    results = {"val": train_and_evaluate(config, workdir)}
    history = [entry["loss"] for entry in run.read_history(workdir / run.HISTORY) if "loss" in entry]
    stored, variables = checkpoints.load_for_inference(workdir, "last")  # which says how images are normalised
    stored.data.val_split = test_split
    data = data_pipelines.build(stored.data)
    results["test"] = evaluator.evaluate(build(stored.model), variables, data.val, data.labels, stored.eval).result()
    shutil.rmtree(workdir / run.CHECKPOINTS)
    found = {split: {"miou": result["miou"], "iou": result["iou"]} for split, result in results.items()}
    return found | {"loss": thinned(history), "seconds": round(time.monotonic() - begin, 1)}


def fill(name: str, named: dict[str, Arm], wanted: list[tuple[int, float]], results, flags_) -> None:
    """Makes the runs (seed, rate) of every arm that `results` lacks; those of a seed first, so that pairs are whole.

    Runs that another process has added by the time when they would start are not made again.
    """
    from experiments import features, heads, records

    def known() -> set[tuple]:
        return {records.identity(found) for found in records.read(results)}

    def lacking(arm: str, group, done: set[tuple]) -> list[tuple[int, float]]:
        return [run for run in group if (name, arm, *run) not in done]

    done = known()
    config, workdir = next(iter(named.values())).config, pathlib.Path(flags_.workdir)
    step = max(flags_.together, 1)
    groups = [wanted[first : first + step] for first in range(0, len(wanted), step)]
    missing = [(arm, group) for group in groups for arm in named if lacking(arm, group, done)]
    trained, splits = {}, {}
    if missing and is_frozen(config):
        splits = {
            split: features.load(config, of, workdir / "features")
            for split, of in (("val", config.data.val_split or "val"), ("test", flags_.test_split))
        }
        starts = heads.Starts(features.load(config, "train", workdir / "features", epochs=flags_.epochs))
        trained = {arm: heads.Head(*named[arm][:2], starts) for arm in dict(missing)}
    for number, (arm, group) in enumerate(missing, start=1):
        group = lacking(arm, group, known())
        if not group:
            continue
        if trained:
            found = run_frozen(trained[arm], group, splits)
        else:
            found = [
                run_whole(named[arm], *run, workdir / f"{arm}_{run[0]}_{run[1]:g}", flags_.test_split) for run in group
            ]
        for run, result in zip(group, found, strict=True):
            records.append(results, {"config": name} | record(arm, *run, named[arm], **result))
            print(
                f"{number}/{len(missing)} {arm} seed {run[0]} rate {run[1]:g}: val {_percent(result['val']['miou'])}, "
                f"test {_percent(result['test']['miou'])}, {result['seconds']:.0f} s",
                flush=True,
            )


def _percent(share) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def numbers(text: str) -> list[int]:
    """'0..3' or '0,1,5' -> whole numbers.

    Raises:
      ValueError: it is neither.
    """
    try:
        if ".." in text:
            first, last = map(int, text.split(".."))
            return list(range(first, last + 1))
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds={text}: expected a range as 0..15, or numbers with commas between them") from error


def main(_) -> None:
    given = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with cli.reading_data():
        from experiments import arms, comparison, records
    try:
        known = arms.ARMS | dict(map(arms.parse, given.arm))
        if unknown := [arm for arm in given.arms if arm not in known]:
            raise ValueError(f"--arms names {', '.join(unknown)}; known are {', '.join(known)}, and those of --arm")
        named = prepare(
            given.config, {arm: known[arm] for arm in given.arms} | dict(map(arms.parse, given.arm)), given.epochs
        )
        name = given.name or recipe()
        rates = [float(rate) for rate in given.rates] or [given.config.optimizer.learning_rate]
        wanted = [(seed, rate) for seed in numbers(given.seeds) for rate in rates]
        results = pathlib.Path(given.results or f"experiments/results/{name.replace(':', '_')}.jsonl")
        digests = {arm: named[arm].digest for arm in named}
        records.check_same(ours(results, name), digests, results)
        with cli.ending("experiments.paired"):
            if not given.report_only:
                fill(name, named, wanted, results, given)
            found = [run for run in ours(results, name) if run["arm"] in named]
            if given.rates:
                found = [run for run in found if run["rate"] in rates]
            compared = comparison.compare(found, list(named))
            print(comparison.table(compared))
            page = comparison.write(compared, pathlib.Path(given.workdir) / "paired.html", f"Arms of {name}")
            print(f"\n{len(found)} runs in {results}; page: {page}")
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.paired: {error}")


def ours(results, name: str) -> list[dict]:
    """The runs of a config in a file of results."""
    from experiments import records

    return [found for found in records.read(results) if found["config"] == name]


def recipe() -> str:
    """What --config names, without folder and suffix: 'camvid_frozen:uper'."""
    file, colon, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"{pathlib.Path(file).stem}{colon}{variant}"


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_list("arms", "none,explicit,folded", "Names of arms; differences are to the first.")
    flags.DEFINE_multi_string("arm", [], "One more arm: name=option=value,option=value.")
    flags.DEFINE_string("seeds", "0..4", "A range, 0..15, or numbers with commas between them.")
    flags.DEFINE_list("rates", "", "Learning rates to run and to report; by default the config's, and all in the file.")
    flags.DEFINE_string("results", None, "File of results; by default experiments/results/NAME.jsonl.")
    flags.DEFINE_string("name", None, "What the config is called in it; by default its recipe's name.")
    flags.DEFINE_string("workdir", "runs/paired", "Directory of features, whole trainings and the page.")
    flags.DEFINE_string("test_split", "test", "The split that is reported.")
    flags.DEFINE_integer("epochs", 4, "Of augmented training images, whose features are kept.")
    flags.DEFINE_integer("together", 1, "Runs of an arm that are trained at once.")
    flags.DEFINE_bool("report_only", False, "Make no run.")
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse)
