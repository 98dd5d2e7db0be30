"""Trains the same network here and in PyTorch, from the same weights, on the same batches, by the same recipe.

python -m experiments.torch_peer --config=camvid_small --config.data.dir=DIR --config.num_steps=400 --seeds=0..2 \\
    [--python=/path/to/python]      # one that has PyTorch and numpy; this one by default

The network is a ResNet under one of the heads of `experiments.torch_networks`, without equalizers, auxiliary head and
dropout, whose random numbers differ. PyTorch's initial weights are ours, exported; its batches come from our pipeline;
its final weights are imported, so that both are evaluated by the same code. It runs in a process of its own, whose
seconds are those of `experiments.torch_training` alone; ours are of the whole run.
Prints mIoU side by side, adds a line a run to the results, and writes a page with both loss curves.
"""

import functools
import operator
import os
import pathlib
import shutil
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging

from se_jax import cli

OURS, PEER = "se_jax", "pytorch"
# options of which one value is written for both sides
ALIKE = {
    "model.encoder.name": "resnet",
    **dict.fromkeys(("optimizer.rate_multipliers", "optimizer.decay_multipliers", "optimizer.freeze"), ()),
    **{"optimizer.clip_norm": 0.0, "ema_decay": 0.0, "accumulate": 1, "init_from": ""},
    **{"loss.name": "cross_entropy", "loss.class_weights": (), "loss.ohem.min_kept": 0},
}


def prepare(config):
    """The config of a comparison: what both sides can do alike.

    Raises:
      ValueError: the recipe has what is written for one side only; names the option.
    """
    config = config.copy_and_resolve_references()
    config.model.auxiliary, config.model.decoder.dropout, config.model.equalizer.mode = None, 0.0, "none"
    config.log.every_steps = max(config.num_steps // 24, 1)
    for option, needed in ALIKE.items():
        value = functools.reduce(operator.getitem, option.split("."), config)
        if value != needed:
            raise ValueError(f"{option} is {value!r}; what is trained on both sides has {needed!r}")
    return config


def recipe_of(config, rates: list[float]) -> dict:
    """What `experiments.torch_training` needs to know."""
    encoder, decoder = config.model.encoder.to_dict(), config.model.decoder.to_dict()
    ours = ("name", "dropout", "channels", "pool_scales")  # of which the peer has the standard ones
    return {
        "encoder": {key: encoder[key] for key in ("depth", "variant", "output_stride", "width", "multi_grid")},
        "head": decoder["name"],
        "channels": decoder["channels"],
        "options": {key: value for key, value in decoder.items() if key not in ours},
        "num_classes": config.model.num_classes,
        "optimizer": {key: config.optimizer[key] for key in ("name", "momentum", "nesterov", "weight_decay")},
        "average": config.loss.average,
        "rates": rates,
    }


def write_inputs(config, model, variables, folder: pathlib.Path) -> None:
    """Writes the files that `experiments.torch_training` reads: our initial weights and our batches."""
    import jax
    import numpy as np

    import data_pipelines
    from se_jax import run
    from se_jax.importers import export_weights
    from se_jax.training import optimizers

    folder.mkdir(parents=True, exist_ok=True)
    _, schedule = optimizers.build(config.optimizer, config.num_steps)
    run.write_json(folder / "recipe.json", recipe_of(config, [float(schedule(k)) for k in range(config.num_steps)]))
    np.savez(folder / "start.npz", **export_weights(model, variables))
    data = data_pipelines.build(config.data)
    batches = data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=0)
    shape, (height, width) = (config.num_steps, config.data.batch_size), config.data.crop
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.float32, (*shape, 3, height, width))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (*shape, height, width))
    normalize = jax.jit(model.normalize)
    for step, batch in zip(range(config.num_steps), batches, strict=False):
        images[step] = np.asarray(normalize(batch["image"], batch["size"])).transpose(0, 3, 1, 2)
        labels[step] = batch["label"]


def run_peer(config, test_split: str, python: str, folder: pathlib.Path) -> dict:
    """What a run of the PyTorch network reaches, in the form of `paired.run_whole`."""
    import jax.numpy as jnp

    import data_pipelines
    from experiments import paired
    from se_jax import parallel, run
    from se_jax.evaluation import evaluator
    from se_jax.importers import import_weights
    from se_jax.models import build
    from se_jax.training.step import stream

    model = build(config.model)
    variables = parallel.jit_once(model.init)(stream(config.seed, "params"), jnp.zeros((1, *config.data.crop, 3)))
    write_inputs(config, model, variables, folder)
    begin, found = time.monotonic(), {}
    subprocess.run([python, "-m", "experiments.torch_training", str(folder)], check=True)
    seconds = round(time.monotonic() - begin, 1)
    variables = import_weights(model, run.read_arrays(folder / "final.npz"), variables)
    for split, name in (("val", config.data.val_split), ("test", test_split)):
        config.data.val_split = name
        data = data_pipelines.build(config.data)
        result = evaluator.evaluate(model, variables, data.val, data.labels, config.eval).result()
        found[split] = {key: result[key] for key in ("miou", "iou")}
    losses, every = run.read_json(folder / "losses.json"), config.log.every_steps
    losses = [
        sum(losses[k : k + every]) / len(losses[k : k + every]) for k in range(0, len(losses), every)
    ]  # as our log
    shutil.rmtree(folder)
    return found | {"loss": paired.thinned(losses), "seconds": seconds}


def main(_) -> None:
    given = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with cli.reading_data():
        from experiments import arms, comparison, paired, records
    try:
        config, workdir = prepare(given.config), pathlib.Path(given.workdir)
        name = paired.recipe()
        arm, rate = paired.Arm(config, "", arms.digest(config, "", 0)), config.optimizer.learning_rate
        records.check_same(paired.ours(given.results, name), dict.fromkeys((OURS, PEER), arm.digest), given.results)
        done = {records.identity(found) for found in records.read(given.results)}
        with cli.ending("experiments.torch_peer"):
            for seed in paired.numbers(given.seeds):
                for side in (OURS, PEER):
                    if (name, side, seed, rate) in done:
                        continue
                    if side == OURS:
                        found = paired.run_whole(arm, seed, rate, workdir / f"{seed}", given.test_split)
                    else:
                        config.seed = seed
                        changed = config.copy_and_resolve_references()
                        found = run_peer(changed, given.test_split, given.python, workdir / f"{seed}_torch")
                    records.append(given.results, {"config": name} | paired.record(side, seed, rate, arm, **found))
        rows = comparison.compare(paired.ours(given.results, name), [PEER, OURS])
        print(comparison.table(rows))
        print(f"page: {comparison.write(rows, workdir / 'torch_peer.html', f'{name} here and in PyTorch')}")
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"experiments.torch_peer: {error}")


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_string("seeds", "0..2", "A range, 0..2, or numbers with commas between them.")
    flags.DEFINE_string("results", "experiments/results/torch_peer.jsonl", "File of results.")
    flags.DEFINE_string("workdir", "runs/torch_peer", "Directory of our runs and of the page.")
    flags.DEFINE_string("python", sys.executable, "The interpreter that has PyTorch.")
    flags.DEFINE_string("test_split", "test", "The split that is reported.")
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse)
