"""Trains the same network here and in PyTorch, from the same weights, on the same batches, by the same recipe.

python -m experiments.torch_peer --config=camvid_small --config.data.dir=DIR --config.num_steps=400 --seeds=0..2

The network is a ResNet under one of the heads of `experiments.torch_networks`, without equalizers, auxiliary head and
dropout, whose random numbers differ. PyTorch's initial weights are ours, exported; its batches come from our pipeline;
its final weights are imported, so that both are evaluated by the same code. Needs PyTorch (requirements-bench.txt).
Prints mIoU side by side, adds a line a run to the results, and writes a page with both loss curves.
"""

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging

from se_jax import cli

OURS, PEER = "se_jax", "pytorch"


def prepare(config):
    """The config of a comparison: what both sides can do alike.

    Raises:
      ValueError: the encoder is no ResNet, or the recipe has what is written for one side only; names the option.
    """
    config = config.copy_and_resolve_references()
    config.model.auxiliary, config.model.decoder.dropout, config.model.equalizer.mode = None, 0.0, "none"
    config.log.every_steps = max(config.num_steps // 24, 1)
    optimizer = config.optimizer
    for option, known, value in (
        ("model.encoder.name", ("resnet",), config.model.encoder.name),
        ("optimizer.name", ("sgd", "adamw"), optimizer.name),
        *((f"optimizer.{name}", ((),), tuple(optimizer[name])) for name in ("rate_multipliers", "decay_multipliers")),
        *(
            (f"{name}", (0.0,), value)
            for name, value in (("clip_norm", optimizer.clip_norm), ("ema_decay", config.ema_decay))
        ),
        ("accumulate", (1,), config.accumulate),
        ("loss.class_weights", ((),), tuple(config.loss.class_weights)),
        ("loss.ohem.min_kept", (0,), config.loss.ohem.min_kept),
    ):
        if value not in known:
            raise ValueError(
                f"{option} is {value!r}; what is trained on both sides has {' or '.join(map(repr, known))}"
            )
    return config


def initial(config):
    """(our network, its variables before the first step of the run of config.seed)."""
    import jax.numpy as jnp

    from se_jax import parallel
    from se_jax.models import build
    from se_jax.training.step import stream

    model = build(config.model)
    return model, parallel.jit_once(model.init)(stream(config.seed, "params"), jnp.zeros((1, *config.data.crop, 3)))


def peer_of(config, model, variables):
    """The same network in PyTorch with the same weights, in training mode."""
    import torch

    from experiments import torch_networks
    from se_jax.importers import export_weights

    encoder = {key: value for key, value in config.model.encoder.to_dict().items()}
    known = ("depth", "variant", "output_stride", "width", "multi_grid")
    head = {
        key: value
        for key, value in config.model.decoder.to_dict().items()
        if key not in ("name", "dropout", "channels", "pool_scales")
    }
    backbone = torch_networks.ResNet(**{key: encoder[key] for key in known})
    decoder = config.model.decoder
    peer = torch_networks.Segmentor(backbone, decoder.name, config.model.num_classes, decoder.channels, **head)
    peer.decode_head.dropout.p = 0.0
    state = {name: torch.from_numpy(array.copy()) for name, array in export_weights(model, variables).items()}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"the PyTorch network lacks {unexpected} and has {missing} besides")
    return peer.train()


def train_peer(config, peer, model, batches) -> list[float]:
    """Trains the PyTorch network; returns the loss of every step."""
    import numpy as np
    import torch

    from experiments.torch_networks import resize
    from se_jax.training import optimizers

    options, losses = config.optimizer, []
    _, schedule = optimizers.build(options, config.num_steps)
    if options.name == "sgd":
        kind = {"momentum": options.momentum, "nesterov": options.nesterov}
        optimizer = torch.optim.SGD(peer.parameters(), 0.0, weight_decay=options.weight_decay, **kind)
    else:
        optimizer = torch.optim.AdamW(peer.parameters(), 0.0, weight_decay=options.weight_decay)
    for step, batch in zip(range(config.num_steps), batches, strict=False):
        optimizer.param_groups[0]["lr"] = float(schedule(step))
        images = np.array(model.normalize(batch["image"], batch["size"])).transpose(0, 3, 1, 2)
        label = torch.from_numpy(batch["label"].astype(np.int64))
        (logits,) = peer(torch.from_numpy(np.ascontiguousarray(images)))
        total = torch.nn.functional.cross_entropy(
            resize(logits, label.shape[1:]), label, ignore_index=255, reduction="sum"
        )
        loss = total / (max(int((label != 255).sum()), 1) if config.loss.average == "valid" else label.numel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run_peer(config, test_split: str) -> dict:
    """What a run of the PyTorch network reaches, in the form of `paired.run_whole`."""
    import data_pipelines
    from experiments import paired
    from se_jax.evaluation import evaluator
    from se_jax.importers import import_weights

    begin = time.monotonic()
    model, variables = initial(config)
    peer, found = peer_of(config, model, variables), {}
    data = data_pipelines.build(config.data)
    batches = data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=0)
    losses = train_peer(config, peer, model, batches)
    state = {name: tensor.numpy() for name, tensor in peer.state_dict().items()}
    variables = import_weights(model, state, variables)
    for split, name in (("val", config.data.val_split), ("test", test_split)):
        config.data.val_split = name
        data = data_pipelines.build(config.data)
        result = evaluator.evaluate(model, variables, data.val, data.labels, config.eval).result()
        found[split] = {key: result[key] for key in ("miou", "iou")}
    return found | {"loss": paired.thinned(losses), "seconds": round(time.monotonic() - begin, 1)}


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
                        found = run_peer(config.copy_and_resolve_references(), given.test_split)
                    records.append(given.results, {"config": name} | paired.record(side, seed, rate, arm, **found))
        rows = comparison.compare(paired.ours(given.results, name), [PEER, OURS])
        print(comparison.table(rows))
        print(f"page: {comparison.write(rows, workdir / 'torch_peer.html', f'{name} here and in PyTorch')}")
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.torch_peer: {error}")


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_string("seeds", "0..2", "A range, 0..2, or numbers with commas between them.")
    flags.DEFINE_string("results", "experiments/results/torch_peer.jsonl", "File of results.")
    flags.DEFINE_string("workdir", "runs/torch_peer", "Directory of our runs and of the page.")
    flags.DEFINE_string("test_split", "test", "The split that is reported.")
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse)
