"""Optimisers and learning-rate schedules of the reference (mmengine 0.10.7 with torch's SGD and AdamW), and others.

Single parameters get another rate or decay by two options that stand for the reference's `paramwise_cfg`. Each is a
sequence of (pattern, multiplier), e.g. `(("^decoder/", 10.0),)`:

    optimizer.rate_multipliers     of the learning rate; the reference's lr_mult and layer decay
    optimizer.decay_multipliers    of the weight decay; the reference's decay_mult

A pattern is a regular expression that is searched for in the parameter's path, e.g. `encoder/stages_0_1/norm/scale`; of
the patterns that are found the first one in the sequence counts, and a parameter in which none is found has 1. In the
reference's names and in ours these are the same:

    backbone, decode_head, auxiliary_head      ^encoder/, ^decoder/, ^auxiliary/
    head                                       ^(decoder|auxiliary)/
    norm (LayerNorms; not BatchNorms)          norm
    bn (BatchNorms)                            /bn
    relative_position_bias_table               bias_table$
    one-dimensional (norm_, bias_decay_mult)   /(scale|bias|tap_bias|gamma)$
    stages.0, downsample_layers of ConvNeXt    ^encoder/stages_0, ^encoder/downsample_layers

`se_jax.config.optimizers` has the reference's recipes made of them.
"""

import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from se_jax.models.frozen import trained

NAMES = ("sgd", "adamw")
SCHEDULES = ("poly", "poly_open", "cosine", "step", "one_cycle", "two_stage")
WARMUPS = ("linear", "constant", "exponential")


def poly_schedule(base: float, num_steps: int, *, power=0.9, minimum=1e-4, **warmup):
    """Learning rate by 0-based step: warm-up, then a polynomial decay that reaches `minimum` at the last step.

    Step t of the decay's T steps has minimum + (base - minimum) * (1 - t / (T - 1)) ** power; note the T - 1. The
    warm-up, `warmup_steps` with `warmup` and `warmup_factor`, goes from warmup_factor * base at step 0 to base at step
    warmup_steps - 1: linearly, by equal factors ('exponential'), or not at all until it ends ('constant').
    """
    return _schedule(lambda left, step: left**power, base, num_steps - 1, minimum, **warmup)


def open_poly_schedule(base: float, num_steps: int, *, power=0.9, minimum=0.0, **warmup):
    """The same with T in the place of T - 1, so that the last step is still above `minimum`: that of detectron2."""
    return _schedule(lambda left, step: left**power, base, num_steps, minimum, **warmup)


def cosine_schedule(base: float, num_steps: int, *, minimum=0.0, **warmup):
    """The same with half a cosine as its decay: step t has minimum + (base - minimum) * (1 + cos(pi t / (T - 1))) / 2.

    Source: Loshchilov & Hutter, ICLR 2017 (https://arxiv.org/abs/1608.03983), without restarts.
    """

    def decay(left, step):
        return (1 - jnp.cos(jnp.pi * left)) / 2

    return _schedule(decay, base, num_steps - 1, minimum, **warmup)


def step_schedule(base: float, num_steps: int, *, milestones, factor=0.1, minimum=0.0, **warmup):
    """The same, falling at milestones: minimum + (base - minimum) * factor ** (how many of them are <= step).

    torch's MultiStepLR, where the minimum is 0.
    """

    def decay(left, step):
        return factor ** jnp.sum(jnp.asarray(milestones) <= step).astype(jnp.float32)

    return _schedule(decay, base, num_steps - 1, minimum, **warmup)


def one_cycle_schedule(base: float, num_steps: int):
    """From a 25th of the rate up to it in 0.3 of the steps, then down to a 250,000th, each half a cosine; optax's.

    Source: Smith & Topin, 2018 (arXiv 1708.07120), as in fastai: three tenths of the steps warm up.
    """
    return optax.cosine_onecycle_schedule(num_steps, base)


def two_stage_schedule(base: float, num_steps: int, *, power=0.9, warmup_steps=0, wait_steps=0):
    """0 for `wait_steps` steps, then a linear warm-up from 0, whose step t has base * t / warmup_steps, then a decay.

    After both, step t of the T steps has base * ((T - t) / (T - warmup_steps - wait_steps)) ** power. Source: EoMT's
    two_stage_warmup_poly_schedule, where parameters of the encoder wait while the others warm up.
    """
    begin = warmup_steps + wait_steps

    def schedule(step):
        warming = jnp.clip((step - wait_steps) / max(warmup_steps, 1), 0.0, 1.0)
        left = jnp.clip(num_steps - step, 0) / max(num_steps - begin, 1)
        return jnp.where(step < begin, base * warming, base * jnp.minimum(left, 1.0) ** power).astype(jnp.float32)

    return schedule


def _schedule(decay, base: float, last: int, minimum: float, warmup_steps=0, warmup="linear", warmup_factor=1e-6):
    """A warm-up, then `decay` of (the share of the steps that is left, 1 to 0 at step `last`; the step)."""

    def schedule(step):
        # whole numbers are subtracted before the division: 1 - t / (T - 1) in float32 would lose the last steps' digits
        left = jnp.clip(last - step, 0) / max(last - warmup_steps, 1)
        decayed = minimum + (base - minimum) * decay(jnp.minimum(left, 1.0), step)
        done = jnp.minimum(step / max(warmup_steps - 1, 1), 1.0)  # a float's power would overflow later
        warming = {
            "linear": warmup_factor + (1 - warmup_factor) * done,
            "exponential": warmup_factor ** (1 - done),
            "constant": warmup_factor,
        }
        return jnp.where(step < warmup_steps, base * warming[warmup], decayed).astype(jnp.float32)

    return schedule


def build(config, num_steps: int):
    """The optimiser of `config.optimizer`, and its schedule.

    SGD is torch's, also with `nesterov`: decay is added to the gradient before the momentum; the rate multiplies the
    momentum buffer. AdamW decays a parameter by its own rate, with betas 0.9, 0.999 and eps 1e-8. Both decay every
    parameter, norms and biases too, but for `decay_multipliers`. As in the reference, a parameter with a rate
    multiplier has a schedule of its own, from that many times the rate to the same minimum. With the schedule
    'two_stage' those that `second_stage` names have a rate of 0 for warmup_steps, while their moments are collected,
    and then warm up for second_warmup_steps. With `clip_norm` gradients of a longer L2 norm, over all parameters
    together, are first cut to that length. Parameters that `freeze` names are none of the optimiser's: `init` is given
    all, `update` the gradients of the others and these.

    Returns:
      (optax.GradientTransformation, schedule: 0-based step -> float32 rate of a parameter without a multiplier).

    Raises:
      ValueError: an optimiser or schedule of another name, or multipliers that are none; at `init`, a pattern of theirs
        or of `freeze` that is found in no parameter.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule is {config.schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if config.warmup not in WARMUPS:
        raise ValueError(f"optimizer.warmup is {config.warmup!r}; expected one of {', '.join(WARMUPS)}")

    def schedule_of(multiplier: float, second: bool = False):
        base = multiplier * config.learning_rate
        if config.schedule == "two_stage":
            first = config.warmup_steps
            steps = {"warmup_steps": config.second_warmup_steps if second else first, "wait_steps": second * first}
            return two_stage_schedule(base, num_steps, power=config.power, **steps)
        options = {"minimum": config.min_learning_rate, "warmup_steps": config.warmup_steps}
        options |= {"warmup": config.warmup, "warmup_factor": config.warmup_factor}
        if config.schedule == "one_cycle":
            return one_cycle_schedule(base, num_steps)
        if config.schedule == "cosine":
            return cosine_schedule(base, num_steps, **options)
        if config.schedule == "step":
            marks = {"milestones": config.milestones, "factor": config.milestone_factor}
            return step_schedule(base, num_steps, **marks, **options)
        poly = open_poly_schedule if config.schedule == "poly_open" else poly_schedule
        return poly(base, num_steps, power=config.power, **options)

    decay = _by_path(lambda by: optax.add_decayed_weights(by * config.weight_decay), config, "decay_multipliers")
    rate = _rates(config, schedule_of)
    if config.name == "sgd":
        tx = optax.chain(decay, optax.chain(optax.trace(config.momentum, config.nesterov), rate))
    elif config.name == "adamw":
        tx = optax.chain(optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8), decay, rate)
    else:
        raise ValueError(f"optimizer.name is {config.name!r}; expected one of {', '.join(NAMES)}")
    if config.clip_norm < 0:
        raise ValueError(f"optimizer.clip_norm is {config.clip_norm}; expected a length, or 0 to cut no gradient")
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    return _of_trained(tx, config), schedule_of(1.0)


def _rates(config, schedule_of) -> optax.GradientTransformation:
    """Updates by the rates of `schedule_of(multiplier, second)`."""

    def of_stage(second: bool):
        return _by_path(lambda by: optax.scale_by_learning_rate(schedule_of(by, second)), config, "rate_multipliers")

    if config.schedule != "two_stage" or not config.second_stage:
        return of_stage(False)
    waits = functools.partial(_found, config.second_stage)
    others = optax.masked(of_stage(False), lambda params: jax.tree.map(lambda found: not found, waits(params)))
    return optax.chain(others, optax.masked(of_stage(True), waits))


def _of_trained(tx: optax.GradientTransformation, config) -> optax.GradientTransformation:
    """`tx` with a state of those parameters only that `freeze` leaves; `init` is given all, and checks all patterns."""

    def init(params):
        if not isinstance(params, Mapping):  # optax's placeholder, by which it finds the slots in a state
            return tx.init(params)
        paths = traverse_util.flatten_dict(params, sep="/")
        patterns = {
            name: [pattern for pattern, _ in config[name]] for name in ("rate_multipliers", "decay_multipliers")
        }
        for option, given in (*patterns.items(), ("second_stage", config.second_stage)):
            for pattern in given:
                if not any(re.search(pattern, path) for path in paths):
                    raise ValueError(
                        f"optimizer.{option} has the pattern {pattern!r}, which is found in no parameter; "
                        f"their paths are like {next(iter(paths))}"
                    )
        return tx.init(trained(params, config.freeze))

    return optax.GradientTransformationExtraArgs(init, optax.with_extra_args_support(tx).update)


def _by_path(make, config, option: str) -> optax.GradientTransformation:
    """`make(multiplier)` on the parameters of each multiplier of an option."""
    rules = []
    for entry in config[option]:
        try:
            pattern, multiplier = entry
            rules.append((re.compile(pattern), float(multiplier)))
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(
                f"optimizer.{option} has {entry!r}; expected (regular expression, number), e.g. ('^decoder/', 10.0)"
            ) from error
    if not rules:
        return make(1.0)
    multipliers = sorted({1.0} | {multiplier for _, multiplier in rules})
    return optax.chain(*(optax.masked(make(by), functools.partial(_have, rules, by)) for by in multipliers))


def _found(patterns, params):
    """Which parameters' paths hold one of the patterns, as a tree of booleans like `params`."""

    def found(path, _) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return any(re.search(pattern, name) for pattern in patterns)

    return jax.tree.map_with_path(found, params)


def _have(rules, multiplier: float, params):
    """Which parameters have this multiplier, as a tree of booleans like `params`."""
    paths = jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params)

    def has(path: str) -> bool:
        return multiplier == next((by for pattern, by in rules if pattern.search(path)), 1.0)

    return jax.tree.map(has, paths)
