"""A whole training run, from config to report: `train_and_evaluate(config, workdir)`, stage by stage."""

import contextlib
import functools
import itertools
import time
from collections.abc import Sequence

import jax
from absl import logging
from clu import metric_writers

import data_pipelines
from data_pipelines import counts
from se_jax import checkpoints, losses, multihost, parallel, run, run_config
from se_jax.evaluation import evaluator
from se_jax.evaluation.metrics import Accuracy, Metric, numbers
from se_jax.losses import Loss
from se_jax.models import build
from se_jax.progress import say
from se_jax.report import pages
from se_jax.training import optimizers, start
from se_jax.training import state as train_state
from se_jax.training.feed import fetch, prefetch
from se_jax.training.preemption import Stopped, preemption
from se_jax.training.records import History, average, data_line, step_line, write_environment, write_equalizer
from se_jax.training.step import compile_train_step


def train_and_evaluate(
    config,
    workdir,
    *,
    own_losses: Sequence[Loss] = (),
    own_metrics: Sequence[Metric] = (),
    since: float | None = None,
) -> dict:
    """Trains as `config` says (see se_jax/config/options.py), evaluates, and leaves everything in `workdir`.

    A run is a function of its config: started again in the same workdir it goes on from the last checkpoint to the very
    result of a run that was never stopped (bit by bit on a CPU).

    Args:
      own_losses: in the place of those that config.loss describes. own_metrics: beside the default ones.
      since: time.monotonic() when the command began, to be told when the first step is done; by default now.

    Returns:
      What metrics.json holds.

    Raises:
      ValueError: an option that cannot be, data that cannot be used, or another config than that of the run in workdir.
      OSError: the workdir cannot be written or is in use, its disk is full, or a file cannot be read.
      NonFiniteLoss: training diverged.
      Stopped: SIGTERM or Ctrl-C asked the run to end; its state is saved.
    """
    # ---- Devices ----
    since = time.monotonic() if since is None else since
    start.check(config)  # before a device is touched
    saved = functools.partial(checkpoints.last_good, workdir)
    with multihost.joined(config.multihost, config.multihost_timeout, saved), contextlib.ExitStack() as stack:
        lead = jax.process_index() == 0  # the one process that writes
        mesh = parallel.make_mesh(config)
        start.check_devices(config, mesh)
        workdir = run.make(workdir)
        stack.enter_context(run.full_disk_told(workdir, saved))
        if lead:
            stack.enter_context(run.lock(workdir))
        config = start.with_normalization(config, workdir)
        run_config.check(workdir, config)
        asked = stack.enter_context(preemption())
        return _run(config, workdir, mesh, lead, asked, stack, own_losses, own_metrics, since)


def _run(config, workdir, mesh, lead, asked, stack, own_losses, own_metrics, since) -> dict:
    """The stages of a run that has its workdir for itself."""
    # ---- Data, model, and what is measured ----
    tell = say if lead else _silent
    data = open_data(config)
    model = build(config.model)
    start.check_network(config, model)
    minimised = tuple(own_losses) or losses.build(config.loss, model, config.losses)
    watched = (Accuracy(),) if model.linear_scores else ()  # other scores cost too much for every step
    metrics = (*evaluator.default_metrics(data.labels, data.val, config.eval), *own_metrics)
    decides = start.check_best(config.checkpoint.best, metrics)

    # ---- State: the last whole checkpoint, or a new network, calibrated ----
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    blank = start.blank_state(config, model, tx, mesh)
    if lead:
        run.check_room(workdir, checkpoints.size(blank))
    store = stack.enter_context(contextlib.closing(checkpoints.Checkpoints(workdir, config.checkpoint.keep)))
    if store.last is not None:
        state = store.restore(blank)
        logging.info("Going on from the checkpoint of step %d in %s", state.step, workdir)
    else:
        tell("Making the initial network, and measuring its equalizers")
        obey = functools.partial(asked.obey, "Stopped before the first step; there was nothing to save")
        state, rows = start.initial_state(config, model, data, tx, mesh, blank, obey)
        if rows and lead:
            write_equalizer(workdir, config, rows)
    begun = int(state.step)
    # what a history says of later steps, whose checkpoints are lost, is measured again
    scores = checkpoints.scores(workdir, config.checkpoint.best)
    store.scores = {step: score for step, score in scores.items() if step <= begun}

    # ---- Step ----
    tell(f"Compiling the training step ({time.monotonic() - since:.0f} s after the start)")
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=begun, **processes)
    batches = prefetch(map(functools.partial(parallel.shard_batch, mesh), batches))
    first = next(batches)
    train_step = compile_train_step(config, model, tx, schedule, minimised, watched, mesh, blank, first)
    run_config.write(workdir, config)  # not before: until here an option may turn out to be impossible
    batches = itertools.chain([first], batches)

    # ---- What a run tells of itself ----
    events = [metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))] if lead else []
    writer = metric_writers.MultiWriter(events)
    stack.enter_context(contextlib.closing(writer))
    history = History(workdir / run.HISTORY, begun) if lead else None
    if lead:
        run.write_labels(workdir, data.labels)
        write_environment(workdir, mesh, state, train_step)

    def obey_at(step):
        return functools.partial(asked.obey, f"Stopped at step {step}, which is saved; the same command goes on")

    def evaluate(state, step) -> dict:
        """The scores of a step whose state is saved."""
        variables = train_state.variables(state, averaged=True)
        variables = parallel.gathered(mesh, variables) if config.mesh.fsdp else variables
        result = evaluator.measure(
            *(model, variables, data, config, mesh, metrics, f"{workdir}/"), each=obey_at(step), step=step
        )
        found = numbers(result)
        writer.write_scalars(step, {f"val/{key}": value for key, value in found.items() if value is not None})
        if lead:
            run.write_json(workdir / run.METRICS, result)
        if history and step not in store.scores:
            history.append(step, found)
        store.scores[step] = result[decides] or 0.0
        return result

    # ---- Loop ----
    def is_due(step):
        return step % config.eval.every_steps == 0 or step == config.num_steps

    result, recent, waited = None, [], 0.0
    if begun and is_due(begun):
        result = start.last_result(workdir, begun) if begun in store.scores else evaluate(state, begun)
    last = time.monotonic()
    for step in range(begun + 1, config.num_steps + 1):
        batch, idle = fetch(batches, recent)
        state, measured = train_step(state, batch)
        waited += idle
        recent.append(measured)
        if step == begun + 1:
            jax.block_until_ready(measured)
            tell(f"First step done {time.monotonic() - since:.0f} s after the start")
        stop = asked()
        saving = is_due(step) or stop or step % config.checkpoint.every_steps == 0

        if saving or step % config.log.every_steps == 0:  # the only places where the host waits for the devices
            values = average(jax.device_get(recent), watched, step, store)
            seconds, images = time.monotonic() - last, len(recent) * config.data.batch_size
            pace = {"images_per_second": images / seconds, "data_wait_share": waited / seconds}
            writer.write_scalars(step, values | pace)
            tell(step_line(step, config.num_steps, values, images / seconds, len(recent) / seconds))
            if history:
                history.append(step, values)
            recent = []
        if saving:
            store.save(step, state)
        if stop:
            raise Stopped(f"Stopped at step {step}, which is saved; the same command goes on", asked.signal)
        if is_due(step):
            result = evaluate(state, step)
        if not recent:
            last, waited = time.monotonic(), 0.0

    # ---- Final evaluation and report ----
    result = result or evaluate(state, config.num_steps)
    shown = {run.SAMPLES: evaluator.spread(len(data.val)), run.WORST: evaluator.examples(metrics, result)}
    return finish(config, workdir, model, state, data, mesh, result, shown, obey_at(config.num_steps))


def _silent(_) -> None:
    """What processes that do not write say."""


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
        say(data_line(config, data))
        for warning in data.warnings:
            logging.warning("%s", warning)
    return data


def finish(config, workdir, model, state, data, mesh, result: dict, shown: dict, each=lambda: None) -> dict:
    """Writes the pictures `shown`, {file: indices of images}, the result of a run and its report; prints the table.

    each: called before every picture.
    """
    evaluator.write_pictures(
        {workdir / name: indices for name, indices in shown.items()},
        *(model, train_state.variables(state, averaged=True), data.val, data.labels, config.eval, mesh),
        on_error=config.data.on_error,
        each=each,
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
