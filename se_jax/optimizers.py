"""Optimisers and the learning-rate schedule of the reference (mmengine 0.10.7 with torch's SGD and AdamW)."""

import jax.numpy as jnp
import optax

NAMES = ("sgd", "adamw")


def poly_schedule(base: float, num_steps: int, *, power=0.9, minimum=1e-4, warmup_steps=0, warmup_factor=1e-6):
    """Learning rate by 0-based step: linear warm-up, then a polynomial decay that reaches `minimum` at the last step.

    Step t of the decay's T steps has minimum + (base - minimum) * (1 - t / (T - 1)) ** power; note the T - 1. The
    warm-up goes from warmup_factor * base at step 0 to base at step warmup_steps - 1.
    """
    last = num_steps - 1

    def schedule(step):
        # whole numbers are subtracted before the division: 1 - t / (T - 1) in float32 would lose the last steps' digits
        left = jnp.clip(last - step, 0) / max(last - warmup_steps, 1)
        decayed = minimum + (base - minimum) * jnp.minimum(left, 1.0) ** power
        warming = base * (warmup_factor + (1 - warmup_factor) * step / max(warmup_steps - 1, 1))
        return jnp.where(step < warmup_steps, warming, decayed).astype(jnp.float32)

    return schedule


def build(config, num_steps: int):
    """The optimiser of `config.optimizer`, and its schedule.

    SGD is torch's: decay on every parameter, added to the gradient before the momentum; the rate multiplies the
    momentum buffer. AdamW decays every parameter by its rate, with betas 0.9, 0.999 and eps 1e-8.

    Returns:
      (optax.GradientTransformation, schedule: 0-based step -> float32 rate).

    Raises:
      ValueError: an optimiser of another name.
    """
    schedule = poly_schedule(
        config.learning_rate,
        num_steps,
        power=config.power,
        minimum=config.min_learning_rate,
        warmup_steps=config.warmup_steps,
    )
    if config.name == "sgd":
        decay = optax.add_decayed_weights(config.weight_decay)
        return optax.chain(decay, optax.sgd(schedule, momentum=config.momentum)), schedule
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay), schedule
    raise ValueError(f"optimizer.name is {config.name!r}; expected one of {', '.join(NAMES)}")
