"""A whole training run, from config to report: `train_and_evaluate(config, workdir)`, stage by stage."""

import contextlib
import functools
import itertools
import time
from collections.abc import Sequence

import jax
from absl import logging
from clu import metric_writers, periodic_actions

import data_pipelines
from data_pipelines import counts
from se_jax import checkpoints, losses, parallel, run
from se_jax.evaluation import evaluator
from se_jax.evaluation.metrics import Accuracy, Metric, numbers
from se_jax.losses import Loss
from se_jax.models import build
from se_jax.report import pages
from se_jax.training import optimizers, start
from se_jax.training import state as train_state
from se_jax.training.feed import fetch, prefetch
from se_jax.training.preemption import preemption
from se_jax.training.records import History, average, write_environment, write_equalizer
from se_jax.training.step import make_train_step


def train_and_evaluate(
    config, workdir, *, own_losses: Sequence[Loss] = (), own_metrics: Sequence[Metric] = ()
) -> dict | None:
    """Trains as `config` says (see se_jax/config/options.py), evaluates, and leaves everything in `workdir`.

    A run is a function of its config: started again in the same workdir it goes on from the last checkpoint to the very
    result of a run that was never stopped (bit by bit on a CPU).

    Args:
      own_losses: in the place of those that config.loss describes. own_metrics: beside the default ones.

    Returns:
      What metrics.json holds; None where SIGTERM stopped the run, which has then saved its state.

    Raises:
      ValueError: an option that cannot be, data that cannot be used, or another config than that of the run in workdir.
      OSError: the workdir cannot be written, or a file cannot be read. NonFiniteLoss: training diverged.
    """
    # ---- Devices ----
    data_pipelines.check_config(config.data)  # before a device is touched
    parallel.start_multihost(config.multihost)
    lead = jax.process_index() == 0  # the one process that writes
    mesh = parallel.make_mesh(config)
    start.check(config, mesh)
    workdir = run.make(workdir)
    checkpoints.check_config(workdir, config)

    # ---- Data, model, and what is measured ----
    data = open_data(config)
    model = build(config.model)
    start.check_network(config, model)
    minimised = tuple(own_losses) or losses.build(config.loss, model)
    watched = (Accuracy(),) if model.linear_scores else ()  # other scores cost too much for every step
    metrics = (*evaluator.default_metrics(data.labels, data.val), *own_metrics)
    decides = start.check_best(config.checkpoint.best, metrics)

    # ---- State: the last checkpoint, or a new network, calibrated ----
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    blank = start.blank_state(config, model, tx, mesh)
    store = checkpoints.Checkpoints(workdir, config.checkpoint.keep)
    if store.last is not None:
        state = store.restore(blank)
        logging.info("Going on from the checkpoint of step %d in %s", store.last, workdir)
    else:
        state, rows = start.initial_state(config, model, data, tx, mesh, blank)
        if rows and lead:
            write_equalizer(workdir, config, rows)
    begun = int(state.step)

    # ---- Step ----
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=begun, **processes)
    batches = prefetch(map(functools.partial(parallel.shard_batch, mesh), batches))
    first = next(batches)
    train_step = parallel.jit(
        make_train_step(model, tx, schedule, config, minimised, watched),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, blank), parallel.replicated(mesh)),
    )
    train_step = train_step.lower(blank, first).compile()
    checkpoints.write_config(workdir, config)  # not before: until here an option may turn out to be impossible
    batches = itertools.chain([first], batches)

    # ---- Loop ----
    writer = metric_writers.create_default_writer(workdir, just_logging=not lead)
    progress = periodic_actions.ReportProgress(
        num_train_steps=config.num_steps, every_steps=config.log.every_steps, every_secs=None
    )
    history = History(workdir / run.HISTORY, begun) if lead else None
    if lead:
        run.write_labels(workdir, data.labels)
        write_environment(workdir, mesh, state, train_step)

    def validate(state, step):
        variables = train_state.variables(state, averaged=True)
        return evaluator.measure(model, variables, data, config, mesh, metrics, f"{workdir}/", step=step)

    recent, result, since, waited = [], None, time.monotonic(), 0.0
    with contextlib.closing(store), contextlib.closing(writer), preemption() as stopping:
        for step in range(begun + 1, config.num_steps + 1):
            batch, idle = fetch(batches, recent)
            state, measured = train_step(state, batch)
            waited += idle
            recent.append(measured)
            stop = stopping(step)
            evaluating = step % config.eval.every_steps == 0 or step == config.num_steps
            saving = evaluating or stop or step % config.checkpoint.every_steps == 0

            if saving or step % config.log.every_steps == 0:  # the only places where the host waits for the devices
                values = average(jax.device_get(recent), watched, step, store)
                seconds, images = time.monotonic() - since, len(recent) * config.data.batch_size
                pace = {"images_per_second": images / seconds, "data_wait_share": waited / seconds}
                writer.write_scalars(step, values | pace)
                if history:
                    history.append(step, values)
                recent = []
            progress(step)
            if evaluating:
                result = validate(state, step)
                scores = numbers(result)
                writer.write_scalars(step, {f"val/{key}": value for key, value in scores.items() if value is not None})
                if history:
                    history.append(step, scores)
            if saving:
                store.save(step, state, (result[decides] or 0.0) if evaluating and result else None)
            if not recent:
                since, waited = time.monotonic(), 0.0
            if stop and step < config.num_steps:
                logging.warning("Stopped at step %d, which is saved; the same command goes on from there", step)
                return None

        # ---- Final evaluation and report ----
        result = result or validate(state, begun)
        shown = {run.SAMPLES: evaluator.spread(len(data.val)), run.WORST: evaluator.examples(metrics, result)}
        return finish(config, workdir, model, state, data, mesh, result, shown)


def open_data(config) -> data_pipelines.Data:
    """Opens the data set; the first process prints the pixels of every class, and the warnings about them.

    Raises:
      ValueError: it cannot be used, or has another number of classes than the network.
    """
    data = data_pipelines.build(config.data)
    if data.labels.num_classes != config.model.num_classes:
        raise ValueError(
            f"model.num_classes is {config.model.num_classes}, but the data set has {data.labels.num_classes} classes"
        )
    if jax.process_index() == 0:
        if data.pixels:
            print(counts.table(list(data.pixels.values())), flush=True)
        for warning in data.warnings:
            logging.warning("%s", warning)
    return data


def finish(config, workdir, model, state, data, mesh, result: dict, shown: dict) -> dict:
    """Writes the pictures `shown`, {file: indices of images}, the result of a run and its report; prints the table."""
    evaluator.write_pictures(
        {workdir / name: indices for name, indices in shown.items()},
        *(model, train_state.variables(state, averaged=True), data.val, data.labels, config.eval, mesh),
        on_error=config.data.on_error,
        segments=workdir / run.SEGMENTS,
    )
    result["equalizer"] = config.model.equalizer.mode
    if data.warnings:
        result["warnings"] = list(data.warnings)
    if skipped := (data.train.skipped + data.val.skipped).total():
        result["skipped"] = skipped
        logging.warning("%d times an example could not be read and was skipped; see above for which", skipped)
    if jax.process_index() == 0:
        run.write_json(workdir / run.METRICS, result)
        pages.write(workdir)
        print(evaluator.table(result))
    return result
