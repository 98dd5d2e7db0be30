"""A run of two processes, for tests/test_multihost.py, which starts both: python -m tests.together SET FOLDER

They train until process 1 is sent SIGTERM, evaluate and predict what is trained, print what each of them read and
wrote, and wait to be killed.
"""

import collections
import contextlib
import json
import os
import pathlib
import signal
import sys
import time

import jax

from data_pipelines import FileSource
from se_jax import checkpoints, multihost, run
from se_jax.config import options
from se_jax.evaluation import evaluator, submission
from se_jax.training import loop, preemption

STOPPED = 2  # the step before which process 1 is told to end
NOTICED = 2.5  # seconds in which JAX, which looks for the signal every second, tells the other process
READ = {"__getitem__": "decoded", "label_bytes": "counted", "size": "sizes"}


def config(directory: str):
    """Four steps of a very small network on a folder of images, each followed by an evaluation."""
    config = options.get_config()
    config.num_steps = 4
    config.data.update(name="folder", dir=directory, crop=(32, 32), batch_size=4, photometric=False, cat_max_ratio=1.0)
    config.eval.update(every_steps=1, batch_size=2)
    config.checkpoint.every_steps = config.log.every_steps = 1
    config.calibration.check_images = 0
    config.model.encoder = {"name": "tests.training.toy_queries:Patches", "width": 8}
    config.model.decoder = options.decoder("fcn", channels=4, num_convs=1, kernel_size=1, in_index=0)
    config.model.equalizer.sites = "concat_input"
    config.model.auxiliary, config.model.num_classes = None, 3
    config.ema_decay = 0.5
    return config


def evaluate(config, workdir: pathlib.Path, which: str) -> None:
    """What `python -m se_jax.evaluate` does with a run: evaluation.* in it, and predictions in workdir/submission."""
    _, variables = checkpoints.load_for_inference(workdir, which)
    evaluator.evaluate_run(config, variables, workdir, which)
    submission.run(config, variables, workdir / "submission")


@contextlib.contextmanager
def noted():
    """Which examples this process reads, {what: [index]}, and the files that it writes."""
    found, originals = collections.defaultdict(list), {name: getattr(FileSource, name) for name in READ}
    write = run.write_json

    def reading(name):
        def read(source, index):
            found[f"{READ[name]} {source.name.split()[-1]}"].append(int(index))
            return originals[name](source, index)

        return read

    def writing(path, *args):
        found["written"].append(path.name)
        return write(path, *args)

    for name in READ:
        setattr(FileSource, name, reading(name))
    run.write_json = writing
    try:
        yield found
    finally:
        for name, original in originals.items():
            setattr(FileSource, name, original)
        run.write_json = write


def main(directory: str, folder: str) -> None:
    """What one of the processes does."""
    jax.config.update("jax_default_matmul_precision", "highest")
    workdir, fetch = pathlib.Path(folder), loop.fetch

    def killing(batches, recent):
        killing.calls += 1
        if killing.calls == STOPPED and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(NOTICED)
        return fetch(batches, recent)

    killing.calls, loop.fetch = 0, killing
    with multihost.joined(timeout=6, safe=lambda: checkpoints.last_good(workdir)):
        print("joined", flush=True)
        with noted() as training:
            try:
                loop.train_and_evaluate(config(directory), workdir)
            except preemption.Stopped as stopped:
                said = str(stopped)
        with noted() as evaluation:
            evaluate(config(directory), workdir, "last")
        print(json.dumps({"said": said, "training": training, "evaluation": evaluation}), flush=True)
        time.sleep(100)


if __name__ == "__main__":
    main(*sys.argv[1:])
