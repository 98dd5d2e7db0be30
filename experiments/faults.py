"""Attacks the library: kills runs at random instants, damages files, gives options that cannot be.

python -m experiments.faults --minutes=20 [--files=1000] [--options=300] [--seed=0] [--output=DIR]

Files and options come first; what is left of the time goes to kills (SIGKILL, SIGTERM, Ctrl-C) of a small training run,
which is started again after each, and whose end must be that of a run that was never stopped: every bit of its last
checkpoint, every line of its history. Wanted: nothing SILENT but JPEG files, which have no checksum, no crash, no hang.
"""

import collections
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
from absl import app, flags, logging

from experiments import mutations

PATIENCE = 60  # seconds after which a trial hangs; a run, ten times as many
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OPTIONS = (
    *("num_steps=24", "eval.every_steps=8", "eval.batch_size=4", "checkpoint.every_steps=4", "log.every_steps=1"),
    *("calibration.max_images=8", "calibration.check_images=0", "model.encoder.depth=18", "model.encoder.width=4"),
    *("model.decoder.channels=8", "model.auxiliary.channels=4", "data.batch_size=4", "data.crop=(32,32)"),
    *("data.image_size=(32,32)", "data.num_train=16", "data.num_val=8"),
)


# ---- Damaged files and impossible options, in a process of their own ----


def work(kind: str, seed: int, first: int, folder: str, pipe) -> None:
    """Sends (number, outcome, what was said) of one trial after the other, without end."""
    logging.set_verbosity(logging.FATAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print about damaged files
    trials = mutations.KINDS[kind](pathlib.Path(folder))
    pipe.send(None)  # ready
    number = first
    while True:
        pipe.send((number, *trials.trial(np.random.default_rng([seed, number]))))
        number += 1


def attack(kind: str, count: int, seed: int, keep: dict) -> collections.Counter:
    """What came of `count` trials of a kind; of outcomes that should not be, `keep` gets what was said."""
    found, number = collections.Counter(), 0
    spawn = multiprocessing.get_context("spawn")
    while number < count:
        ours, theirs = spawn.Pipe()
        with tempfile.TemporaryDirectory() as folder:
            process = spawn.Process(target=work, args=(kind, seed, number, folder, theirs), daemon=True)
            process.start()
            theirs.close()
            while number < count:
                try:
                    if not ours.poll(PATIENCE):
                        outcome, said = "HANG", f"trial {number}"
                    elif (result := ours.recv()) is None:
                        continue
                    else:
                        number, outcome, said = result
                except EOFError:
                    process.join()
                    outcome, said = "CRASH", f"trial {number}: the process died with status {process.exitcode}"
                found[outcome] += 1
                number += 1
                if outcome.isupper():
                    keep.setdefault(f"{kind}: {outcome}", []).append(f"trial {number - 1}: {said}")
                if outcome == "HANG" or process.exitcode is not None:
                    break
            process.kill()
            process.join()
    return found


# ---- Kills ----


class Victim:
    """A training run by the command, in a directory."""

    def __init__(self, folder: pathlib.Path, cache: pathlib.Path):
        self.folder = folder
        self.environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        self.environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "se_jax.main", "--config=shapes_uper", f"--workdir={self.folder}"]
        command += [f"--config.{option}" for option in OPTIONS]
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def end(self) -> tuple[dict, list]:
        """(the bits of its last checkpoint, its history)."""
        from se_jax import checkpoints, run

        _, variables = checkpoints.load_for_inference(self.folder, "last")
        return variables, run.read_history(self.folder / run.HISTORY)


def kill(folder: pathlib.Path, until: float, seed: int, keep: dict) -> collections.Counter:
    """What came of kills until a point in time (time.monotonic)."""
    rng, found = np.random.default_rng(seed), collections.Counter()
    whole = Victim(folder / "whole", folder / "cache")
    for _ in range(2):  # the second one reads what it compiles from the cache, as those to be killed
        shutil.rmtree(whole.folder, ignore_errors=True)
        begun = time.monotonic()
        if status := whole.start().wait(10 * PATIENCE):
            raise RuntimeError(f"the run that nobody kills ended with status {status}; see {folder}/whole.log")
    length, expected = time.monotonic() - begun, whole.end()
    attempt = 0
    while time.monotonic() < until:
        victim, attempt = Victim(folder / f"killed{attempt}", folder / "cache"), attempt + 1
        stops = 0
        while True:
            process = victim.start()
            number = SIGNALS[rng.integers(0, len(SIGNALS))]
            try:
                # the first stops lie in the start, in training, in an evaluation; then the run may end
                status = process.wait(rng.uniform(0.1, 1.1) * length if stops < 8 else 10 * PATIENCE)
                break
            except subprocess.TimeoutExpired:
                if stops >= 8:
                    process.kill()
                    status = "HANG"
                    break
            process.send_signal(number)
            stops += 1
            try:
                ended = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                ended = "HANG"
            # a run that a signal reached before its handlers, or after its end
            allowed = (-number, 128 + number, 0) if number != signal.SIGINT else (-number, 128 + number, 0, 1)
            outcome = "stopped" if ended in allowed else "HANG" if ended == "HANG" else "CRASH"
            found[f"{signal.Signals(number).name}: {outcome}"] += 1
            if outcome != "stopped":
                keep.setdefault(f"kills: {outcome}", []).append(f"{victim.folder}: status {ended}")
        if status == 0 and mutations.same_bits(victim.end()[0], expected[0]) and victim.end()[1] == expected[1]:
            found["runs: same bits, same history"] += 1
            shutil.rmtree(victim.folder)
        else:
            found[f"runs: {'OTHER' if status == 0 else f'status {status}'}"] += 1
            keep.setdefault("kills: OTHER", []).append(f"{victim.folder}: status {status}")
    return found


# ---- The command ----


def main(_) -> None:
    given, begun = flags.FLAGS, time.monotonic()
    logging.set_verbosity(logging.ERROR)  # orbax tells every step of its work
    folder = pathlib.Path(given.output or tempfile.mkdtemp(prefix="faults")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(mutations.KINDS, given.files) | {"options": given.options}
    keep, columns = {}, (*mutations.OUTCOMES, "HANG")
    print(f"{'what was damaged':28}{'tried':>8}" + "".join(f"{name:>10}" for name in columns), flush=True)
    results = {}
    for kind, count in counts.items():
        found = results[kind] = attack(kind, count, given.seed, keep)
        print(f"{kind:28}{found.total():8}" + "".join(f"{found[name]:10}" for name in columns), flush=True)
    results["kills"] = kill(folder, begun + 60 * given.minutes, given.seed, keep)
    for what, count in sorted(results["kills"].items()):
        print(f"{what:36}{count:6}")
    (folder / "faults.json").write_text(json.dumps({"results": results, "seen": keep}, indent=1))
    for what, said in keep.items():
        print(f"\n{what} ({len(said)}), the first: {said[0][:2000]}")
    print(f"\nall of it: {folder / 'faults.json'}; {(time.monotonic() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 10, "Time for everything; kills get what files and options leave.", 0)
    flags.DEFINE_integer("files", 1000, "Damaged files of each kind.", 1)
    flags.DEFINE_integer("options", 300, "Options with values that cannot be.", 1)
    flags.DEFINE_integer("seed", 0, "Of everything that is random.")
    flags.DEFINE_string("output", None, "Directory for runs and faults.json; a temporary one by default.")
    app.run(main)
