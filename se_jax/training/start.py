"""What a run starts from: options that can be, and the state before its first step."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

import data_pipelines
from se_jax import constants, parallel, run, run_config
from se_jax.config import check as options
from se_jax.config import normalization
from se_jax.config.types import ConfigDict
from se_jax.equalizer import calibrate
from se_jax.equalizer.sites import check_sites, find_sites, identity_statistics
from se_jax.evaluation import protocol
from se_jax.evaluation.metrics import numbers
from se_jax.importers import is_folded, normalization_of, start_from
from se_jax.models import build
from se_jax.models.frozen import frozen
from se_jax.training import state as train_state
from se_jax.training.step import stream


def check(config) -> None:
    """Raises ValueError, naming the option, for values that no run can have; touches no device."""
    options.check(config)
    data_pipelines.check_config(config.data)
    protocol.protocol(config.eval)
    crop, stride = config.data.crop, _stride(config)
    if min(crop) < stride:
        raise ValueError(
            f"data.crop is {tuple(crop)}; expected (height, width), both whole numbers of at least {stride}, the "
            "encoder's output stride, so that its last feature map has a pixel"
        )


def check_devices(config, mesh) -> None:
    """Raises ValueError where a batch cannot be split over the devices."""
    batch, unit = config.data.batch_size, mesh.shape["data"] * config.accumulate
    if batch % unit:
        below = batch // unit * unit
        raise ValueError(
            f"data.batch_size is {batch}, which cannot be split evenly over {mesh.shape['data']} devices in "
            f"{config.accumulate} parts (accumulate); use a multiple of {unit}, e.g. "
            + " or ".join(str(size) for size in (below, below + unit) if size)
        )


def check_network(config, model) -> None:
    """Raises ValueError, naming the option, where the network does not suit the crops, the views or the equalizer."""
    model.decoder.check(_stride(config), config.data.crop)
    _check_multiple(config, model)
    protocol.check(model, config.eval)
    images = jax.ShapeDtypeStruct((1, *config.data.crop, model.channels), jnp.float32)
    check_sites(find_sites(model, images), model.decoder.equalizer, f"decoder '{config.model.decoder['name']}'")


def _check_multiple(config, model) -> None:
    """Raises ValueError where crops are no whole patches of the encoder."""
    multiple, crop = getattr(model.encoder, "size_multiple", 1), tuple(config.data.crop)
    if any(side % multiple for side in crop):
        below = tuple(max(side // multiple, 1) * multiple for side in crop)
        above = tuple(-(-side // multiple) * multiple for side in crop)
        raise ValueError(
            f"data.crop is {crop}; expected multiples of {multiple}, the encoder's patch: the next ones are {below} "
            f"and {above}"
        )


def check_best(best: str, metrics) -> str:
    """The key of the number that decides which checkpoint is the best one, of config.checkpoint.best.

    Raises:
      ValueError: no metric computes it; names those that there are.
    """
    known = {}
    for metric in metrics:
        known |= numbers(metric.compute(metric.empty()))
    key = best.removeprefix("val/")
    if not best.startswith("val/") or key not in known:
        raise ValueError(f"checkpoint.best is {best!r}; expected one of {', '.join(f'val/{name}' for name in known)}")
    return key


def _stride(config) -> int:
    return config.model.encoder.get("output_stride", 32)


def with_normalization(config, workdir) -> ConfigDict:
    """The same config with model.normalization filled in where it is None, by the first that says it.

    The run in `workdir`; the weights in init_from; ImageNet's for a network from chance. What is chosen is logged, and
    so is a value that is given where the weights say another.

    Raises:
      FileNotFoundError, ValueError: weights that cannot be read.
    """
    given, config = config.model.normalization, copy.deepcopy(config)
    if (workdir / run.CONFIG).exists():
        config.model.normalization = given or run_config.load(workdir).model.normalization
        return config
    channels = config.data.channels
    imagenet = normalization.for_channels(normalization.IMAGENET, channels)
    found = config.init_from and normalization_of(config.init_from, build(config.model), config.data.crop)
    found = normalization.for_channels(found, channels) if found else None
    if given and found and not np.allclose(given, found):
        logging.warning(
            "model.normalization is %s, but the weights of %s expect %s. What is given is used",
            *(normalization.text(given), config.init_from, normalization.text(found)),
        )
    elif config.init_from and not given:
        why = "as its weights expect" if found else "ImageNet's, as nothing there says what its weights expect"
        logging.log(
            logging.INFO if found else logging.WARNING,
            "Images for the weights of %s are normalised by %s, %s; for others give --config.model.normalization",
            *(config.init_from, normalization.text(found or imagenet), why),
        )
    config.model.normalization = given or found or imagenet
    return config


def blank_state(config, model, tx: optax.GradientTransformation, mesh) -> train_state.TrainState:
    """The state's shapes and where it lies: jax.ShapeDtypeStructs with shardings."""

    def create():
        images = jnp.zeros((1, *config.data.crop, model.channels))
        variables = model.init(jax.random.key(0), images)
        variables["equalizer"] = identity_statistics(find_sites(model, images))
        return train_state.create(variables, tx, keep_ema=config.ema_decay > 0)

    blank = jax.eval_shape(create)
    layout = parallel.state_shardings(mesh, blank, tx, config.optimizer.freeze, fsdp=config.mesh.fsdp)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), blank, layout)


def initial_state(config, model, data, tx: optax.GradientTransformation, mesh, blank, each=lambda: None):
    """A new network, from chance or from config.init_from, with its constants, calibrated.

    Args:
      data: of `data_pipelines.build`. blank: of `blank_state`.
      each: called before every batch of calibration, as often in every process; what it raises ends it.

    Returns:
      (a TrainState laid out as `blank`, what calibration measured: `calibrate.Row`s).

    Raises:
      ValueError, FileNotFoundError: constants or weights to start from are missing or do not fit.
    """
    names = data.labels.names
    fitted = constants.load(config.constants_from, model, names) if model.constants else {}
    # a folded network goes on as it is: its statistics are in its weights
    folded = model.decoder.equalizer.mode == "folded" and bool(config.init_from) and is_folded(config.init_from)
    # all modes start from identical weights: those of the network without equalizers
    plain = model if folded else model.with_equalizer(mode="none")
    blank_image = jnp.zeros((1, *config.data.crop, model.channels))
    init = functools.partial(plain.init, stream(config.seed, "params"), blank_image)
    shapes = jax.eval_shape(init)
    placed = jax.tree.map(lambda _: parallel.replicated(mesh), shapes)
    placed["params"] = parallel.param_shardings(mesh, shapes["params"])
    variables = constants.place(parallel.jit_once(init, out_shardings=placed)(), fitted)
    if config.init_from:
        variables = start_from(config.init_from, model, variables, config.init_skip)
    create = functools.partial(train_state.create, tx=tx, keep_ema=config.ema_decay > 0)
    layout = jax.tree.map(lambda leaf: leaf.sharding, blank)
    if folded:
        logging.info("%s has its equalizers in its weights: they are kept, not measured anew", config.init_from)
        return parallel.jit_once(create, out_shardings=layout)(variables), []
    shard = functools.partial(parallel.shard_batch, mesh)

    def passes(seed, limit):
        options = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        for batch in data_pipelines.calibration_batches(data, config.data, seed=seed, max_images=limit, **options):
            each()
            yield shard(batch)

    def check_passes():
        return passes(config.seed + 1, config.calibration.check_images)

    with frozen(config.optimizer.freeze):  # what training will see
        variables, rows = calibrate.equalize(
            model,
            variables,
            batches=lambda: passes(config.seed, config.calibration.max_images),
            fresh=check_passes if config.calibration.check_images else None,
            mesh=mesh,
            jit=functools.partial(parallel.jit, mesh=mesh),
            progress=_show,
        )
    return parallel.jit_once(create, out_shardings=layout)(variables), rows


def last_result(workdir, step: int) -> dict | None:
    """What metrics.json holds, if it is of that step."""
    path = workdir / run.METRICS
    result = run.read_json(path) if path.exists() else None
    return result if result and result["step"] == step else None


def _show(site: str, images: int) -> None:
    logging.log_every_n_seconds(logging.INFO, "Calibrating site %s: %d images", 5, site, images)
