"""A whole training run, from config to report: `train_and_evaluate(config, workdir)`, stage by stage."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import pathlib
import platform
import signal
import threading
import time
import zlib

import jax
import jax.numpy as jnp
import optax
from absl import logging
from clu import metric_writers, periodic_actions
from jax.experimental import multihost_utils

import data_pipelines
from se_jax import calibrate, checkpoints, dupsample, evaluate, inference, losses, optimizers, parallel, report, worst
from se_jax import state as train_state
from se_jax.feed import fetch, prefetch
from se_jax.importers import start_from
from se_jax.models import build
from se_jax.models.segmenter import normalize


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient stopped being a finite number."""


def train_and_evaluate(config, workdir) -> dict | None:
    """Trains as `config` says (see configs/common.py), evaluates, and leaves everything in `workdir`.

    A run is a function of its config: started again in the same workdir it goes on from the last checkpoint to the very
    result of a run that was never stopped (bit by bit on a CPU).

    Returns:
      What metrics.json holds; None where SIGTERM stopped the run, which has then saved its state.

    Raises:
      ValueError: an option that cannot be, data that cannot be used, or another config than that of the run in workdir.
      OSError: the workdir cannot be written, or a file cannot be read. NonFiniteLoss: training diverged.
    """
    # ---- Devices ----
    parallel.start_multihost(config.multihost)
    lead = jax.process_index() == 0  # the one process that writes
    mesh = parallel.make_mesh(config)
    check(config, mesh)
    workdir = make_workdir(workdir)
    checkpoints.check_config(workdir, config)

    # ---- Data ----
    data = data_pipelines.build(config.data)
    if data.labels.num_classes != config.model.num_classes:
        raise ValueError(
            f"model.num_classes is {config.model.num_classes}, but the data set has {data.labels.num_classes} classes"
        )
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    shard = functools.partial(parallel.shard_batch, mesh)

    # ---- Model ----
    model = build(config.model)
    inference.check(model, config.eval)
    # the plain network is born in every mode: the arms of a comparison start from the same weights
    init = functools.partial(
        model.with_equalizer(mode="none").init, stream(config.seed, "params"), jnp.zeros((1, *config.data.crop, 3))
    )
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    create = functools.partial(train_state.create, tx=tx, keep_ema=config.ema_decay > 0)
    blank = jax.eval_shape(lambda: create(model.init(jax.random.key(0), jnp.zeros((1, *config.data.crop, 3)))))
    layout = parallel.state_shardings(mesh, blank, tx)
    blank = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), blank, layout)

    # ---- State: the last checkpoint, or a new network, calibrated ----
    store = checkpoints.Checkpoints(workdir, config.checkpoint.keep)
    if store.last is not None:
        state = store.restore(blank)
        logging.info("Going on from the checkpoint of step %d in %s", store.last, workdir)
    else:
        fitted = dupsample.load(config, data.labels.names) if config.model.decoder.name == "dupsampling" else None
        born = {"params": layout.params, "batch_stats": layout.batch_stats, **layout.constants}
        born.pop("equalizer", None)  # which calibration adds
        if model.decoder.equalizer.mode == "folded":  # its network has places for the shifts that a plain one lacks
            born["params"] = parallel.param_shardings(mesh, jax.eval_shape(init)["params"])
        variables = parallel.jit_once(init, out_shardings=born)()
        if fitted:
            place = variables["dupsampling"]["decoder"]["dupsample"]
            place.update({name: jax.device_put(fitted[name], old.sharding) for name, old in place.items()})
        if config.init_from:
            variables = start_from(config.init_from, model, variables)

        def passes(seed, limit):
            options = {"seed": seed, "max_images": limit, **processes}
            return map(shard, data_pipelines.calibration_batches(data, config.data, **options))

        def check_passes():
            return passes(config.seed + 1, config.calibration.check_images)

        variables, rows = calibrate.equalize(
            model,
            variables,
            batches=lambda: passes(config.seed, config.calibration.max_images),
            fresh=check_passes if config.calibration.check_images else None,
            mesh=mesh,
            jit=parallel.jit,
            progress=show_calibration,
        )
        if rows and lead:
            write_equalizer(workdir, config, rows)
        state = parallel.jit_once(create, out_shardings=layout)(variables)
        del variables
    start = int(state.step)

    # ---- Step ----
    batches = data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=start, **processes)
    batches = prefetch(map(shard, batches))
    first = next(batches)
    train_step = parallel.jit(
        make_train_step(model, tx, schedule, config),
        donate_argnums=0,
        out_shardings=(layout, parallel.replicated(mesh)),
    )
    train_step = train_step.lower(blank, first).compile()
    checkpoints.write_config(workdir, config)  # not before: until here an option may turn out to be impossible
    batches = itertools.chain([first], batches)

    # ---- Loop ----
    writer = metric_writers.create_default_writer(workdir, just_logging=not lead)
    progress = periodic_actions.ReportProgress(
        num_train_steps=config.num_steps, every_steps=config.log.every_steps, every_secs=None
    )
    history = History(workdir / "history.jsonl", start) if lead else None
    if lead:
        evaluate.write_labels(workdir, data.labels)
        write_environment(workdir, mesh, state, train_step)

    def validate(state, step):
        variables = train_state.variables(state, averaged=True)
        return evaluate.measure(model, variables, data, config, mesh, workdir / "confusion.npz", step=step)

    recent, result, since, waited = [], None, time.monotonic(), 0.0
    with contextlib.closing(store), contextlib.closing(writer), preemption() as stopping:
        for step in range(start + 1, config.num_steps + 1):
            batch, idle = fetch(batches, recent)
            state, measured = train_step(state, batch)
            waited += idle
            recent.append(measured)
            stop = stopping(step)
            evaluating = step % config.eval.every_steps == 0 or step == config.num_steps
            saving = evaluating or stop or step % config.checkpoint.every_steps == 0

            if saving or step % config.log.every_steps == 0:  # the only places where the host waits for the devices
                values = average(jax.device_get(recent), step, store)
                seconds, images = time.monotonic() - since, len(recent) * config.data.batch_size
                pace = {"images_per_second": images / seconds, "data_wait_share": waited / seconds}
                writer.write_scalars(step, values | pace)
                if history:
                    history.append(step, values)
                recent = []
            progress(step)
            if evaluating:
                result = validate(state, step)
                scores = {key: result[key] for key in ("miou", "macc", "aacc")}
                writer.write_scalars(step, {f"val/{key}": value for key, value in scores.items() if value is not None})
                if history:
                    history.append(step, scores)
            if saving:
                store.save(step, state, (result["miou"] or 0.0) if evaluating else None)
            if not recent:
                since, waited = time.monotonic(), 0.0
            if stop and step < config.num_steps:
                logging.warning("Stopped at step %d, which is saved; the same command goes on from there", step)
                return None

        # ---- Final evaluation and report ----
        result = result or validate(state, start)
        shown = {"samples": evaluate.spread(len(data.val)), "worst": worst.indices(result)}
        evaluate.write_pictures(
            {workdir / f"{name}.npz": indices for name, indices in shown.items()},
            model,
            train_state.variables(state, averaged=True),
            data.val,
            data.labels,
            config.eval,
            mesh,
            on_error=config.data.on_error,
        )
    result["equalizer"] = config.model.equalizer.mode
    if skipped := (data.train.skipped + data.val.skipped).total():
        result["skipped"] = skipped
        logging.warning("%d times an example could not be read and was skipped; see above for which", skipped)
    if lead:
        (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
        report.write(workdir)
        print(evaluate.table(result))
    return result


# ---- The step ----


def stream(seed: int, name: str):
    """The key of a named stream of random numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def make_train_step(model, tx: optax.GradientTransformation, schedule, config):
    """`train_step(state, batch) -> (state, measured)`, to be compiled with the state donated.

    batch: global arrays 'image' uint8 [b, h, w, 3], 'size' int32 [b, 2], 'label' uint8 [b, h, w]. measured: float32
    scalars; loss = loss_decoder + loss_auxiliary, both averaged over the pixels of the whole batch.
    """

    def loss_of(params, batch_stats, constants, key, part, divide_by):
        variables = {"params": params, "batch_stats": batch_stats, **constants}
        images = normalize(part["image"], part["size"])
        of_codes = config.loss.name == "codes"
        mutable = ["batch_stats", "codes"] if of_codes else ["batch_stats"]
        outputs, updates = model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": key})
        cross_entropy = functools.partial(
            losses.cross_entropy, align_corners=model.align_corners, class_weights=config.loss.class_weights
        )
        loss, correct = cross_entropy(outputs["logits"], part["label"], divide_by, **config.loss.ohem)
        if of_codes:
            codes, fitted = (tree["decoder"]["dupsample"] for tree in (updates["codes"], constants["dupsampling"]))
            loss = losses.squared_error_of_codes(
                **codes, **fitted, ratio=model.decoder.ratio, label=part["label"], divide_by=divide_by
            )
        measured = {"loss_decoder": loss, "correct": correct}
        if "auxiliary" in outputs:
            auxiliary, _ = cross_entropy(outputs["auxiliary"], part["label"], divide_by)
            measured["loss_auxiliary"] = config.loss.auxiliary_weight * auxiliary
            loss = loss + measured["loss_auxiliary"]
        return loss, (updates["batch_stats"], {"loss": loss, **measured})

    def train_step(state, batch):
        divide_by = losses.divisor(batch["label"], config.loss.average, config.loss.class_weights)
        key = jax.random.fold_in(stream(config.seed, "dropout"), state.step)

        def gradients(batch_stats, key, part):
            gradient = jax.grad(loss_of, has_aux=True)
            return gradient(state.params, batch_stats, state.constants, key, part, divide_by)

        if config.accumulate == 1:
            grads, (batch_stats, measured) = gradients(state.batch_stats, key, batch)
        else:
            grads, batch_stats, measured = accumulated(gradients, state.batch_stats, key, batch, config.accumulate)
        measured["accuracy"] = losses.accuracy(measured.pop("correct"), batch["label"])
        measured |= {"learning_rate": schedule(state.step), "gradient_norm": optax.tree_utils.tree_norm(grads)}
        return train_state.update(state, grads, batch_stats, tx, config.ema_decay), measured

    return train_step


def accumulated(gradients, batch_stats, key, batch, count: int):
    """The sums of `gradients` over `count` parts of a batch, one after the other; the running statistics follow along.

    Part i is made of images i, i + count, ...: each device splits its own images, and none moves.
    """
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(carry, part):
        batch_stats, sums = carry
        grads, (batch_stats, measured) = gradients(batch_stats, jax.random.fold_in(key, part[0]), part[1])
        return (batch_stats, jax.tree.map(jnp.add, sums, (grads, measured))), None

    head = jax.tree.map(lambda x: x[0], parts)
    grads, (_, measured) = jax.eval_shape(gradients, batch_stats, key, head)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, measured))
    (batch_stats, (grads, measured)), _ = jax.lax.scan(add, (batch_stats, zeros), (jnp.arange(count), parts))
    return grads, batch_stats, measured


# ---- What the loop is watched by ----


@contextlib.contextmanager
def preemption():
    """Gives `stopping(step)`: whether SIGTERM asked the run to end. Every process gets the same answer at a step."""
    if jax.process_count() > 1:  # JAX watches for the signal itself, and agrees on a step with the other processes
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def average(recent: list[dict], step: int, store: checkpoints.Checkpoints) -> dict[str, float]:
    """Means of what the last steps, up to `step`, measured; raises NonFiniteLoss at the first that is not finite."""
    for back, measured in zip(range(len(recent) - 1, -1, -1), recent, strict=True):
        if not all(math.isfinite(value) for value in measured.values()):
            store.wait()
            parts = ", ".join(f"{key} {float(value):.6g}" for key, value in measured.items())
            good = "there is none yet" if store.last is None else f"step {store.last} in {store.folder}"
            raise NonFiniteLoss(
                f"training diverged at step {step - back}: {parts}. Last good checkpoint: {good}. "
                "Try a lower optimizer.learning_rate, or look for bad input"
            )
    means = {key: sum(float(measured[key]) for measured in recent) / len(recent) for key in recent[0]}
    return means | {"learning_rate": float(recent[-1]["learning_rate"])}


class History:
    """history.jsonl: one JSON object a line, {"step": ..., name: number, ...}; lines after step `start` are cut off."""

    def __init__(self, path: pathlib.Path, start: int):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= start))

    def append(self, step: int, values: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


# ---- Before and beside the loop ----


def check(config, mesh) -> None:
    """Raises ValueError, naming the option, for values that no run can have."""
    counts = ("num_steps", "accumulate", "eval.every_steps", "eval.batch_size", "log.every_steps")
    for option in (*counts, "checkpoint.every_steps", "checkpoint.keep"):
        if functools.reduce(lambda node, key: node[key], option.split("."), config) < 1:
            raise ValueError(f"{option} is below 1")
    if not 0 <= config.ema_decay < 1:
        raise ValueError(f"ema_decay is {config.ema_decay}; expected 0 (no average) or a number below 1")
    losses.check(config.loss, config.model.num_classes)
    dupsample.check(config)
    inference.protocol(config.eval)
    batch, unit = config.data.batch_size, mesh.shape["data"] * config.accumulate
    if batch < 1 or batch % unit:
        below = batch // unit * unit
        raise ValueError(
            f"data.batch_size is {batch}, which cannot be split evenly over {mesh.shape['data']} devices in "
            f"{config.accumulate} parts (accumulate); use a multiple of {unit}, e.g. "
            + " or ".join(str(size) for size in (below, below + unit) if size)
        )
    crop, stride = config.data.crop, config.model.encoder.get("output_stride", 32)
    if len(crop) != 2 or not all(isinstance(side, int) and side >= stride for side in crop):
        raise ValueError(
            f"data.crop is {tuple(crop)}; expected (height, width), both whole numbers of at least {stride}, the "
            "encoder's output stride, so that its last feature map has a pixel"
        )


def make_workdir(workdir) -> pathlib.Path:
    """Makes the directory, and makes sure that it can be written."""
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe{jax.process_index()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"workdir {workdir} cannot be written ({error.strerror}); give another --workdir") from error
    return workdir


def show_calibration(site: str, images: int) -> None:
    logging.log_every_n_seconds(logging.INFO, "Calibrating site %s: %d images", 5, site, images)


def write_equalizer(workdir: pathlib.Path, config, rows) -> None:
    """Writes equalizer.json and equalizer.png, and prints the table."""
    content = {**config.model.equalizer, "rows": [dataclasses.asdict(row) for row in rows]}
    (workdir / "equalizer.json").write_text(json.dumps(content, indent=1) + "\n")
    calibrate.plot(rows, workdir / "equalizer.png")
    print(calibrate.table(rows))


def write_environment(workdir: pathlib.Path, mesh, state, compiled) -> None:
    """Writes environment.json: versions, devices, parameter count, FLOPs of a step on all devices."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-cpu", "clu", "ml-collections", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    content = {
        "versions": versions,
        "platform": platform.platform(),
        "devices": {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind, "mesh": dict(mesh.shape)},
        "processes": jax.process_count(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "flops_per_step": (compiled.cost_analysis() or {}).get("flops", math.nan) * mesh.size,
    }
    (workdir / "environment.json").write_text(json.dumps(content, indent=1) + "\n")
