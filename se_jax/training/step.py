"""The training step: gradients of the sum of all losses, over the whole batch or part by part, and one update."""

import zlib

import jax
import jax.numpy as jnp
import optax

from se_jax import parallel
from se_jax.models.frozen import frozen, merged, trained
from se_jax.training import state as train_state


def stream(seed: int, name: str):
    """The key of a named stream of random numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def make_train_step(model, tx: optax.GradientTransformation, schedule, config, losses, metrics=(), used=None):
    """`train_step(state, batch) -> (state, measured)`, to be compiled with the state donated.

    Args:
      model: a Segmenter. tx, schedule: of `optimizers.build`. config: a run's.
      losses: `se_jax.losses.Loss`es, whose terms are added up.
      metrics: `se_jax.evaluation.metrics.Metric`s of the scores in training, e.g. their accuracy.
      used: where parameters lie while the network uses them, if not where they are kept: shardings.

    The step's batch: global arrays 'image' uint8 [b, h, w, 3], 'size' int32 [b, 2], 'label' uint8 [b, h, w]. measured:
    float32 scalars loss (the sum), every term by its name, what losses report besides, learning_rate, gradient_norm;
    and 'metrics', their states.
    """

    freeze = config.optimizer.freeze

    def loss_of(part_trained, params, batch_stats, constants, keys, part, normalizers, progress):
        # gradients are of what is trained only: nothing of the rest's backward pass is computed
        variables = {"params": merged(params, part_trained), "batch_stats": batch_stats, **constants}
        images = model.normalize(part["image"], part["size"])
        rngs = {"dropout": keys["dropout"]}
        with frozen(freeze):
            outputs, updates = model.apply(
                variables, images, train=True, progress=progress, mutable=["batch_stats"], rngs=rngs
            )
        terms = {}
        for i, (loss, normalizer) in enumerate(zip(losses, normalizers, strict=True)):
            terms |= loss(outputs, constants, part, normalizer, jax.random.fold_in(keys["loss"], i))
        total = sum(terms.values())
        states = _measure(jax.lax.stop_gradient(outputs), part["label"])
        return total, (updates["batch_stats"], {"loss": total, **terms, "metrics": states})

    def _measure(outputs, label):
        if not metrics:
            return ()
        scores = model.scores(outputs, label.shape[1:3])
        return tuple(metric.update(metric.init(len(label)), scores, label) for metric in metrics)

    def train_step(state, batch):
        normalizers = tuple(loss.normalizer(batch) for loss in losses)
        batch = batch | {"place": jnp.arange(len(batch["label"]))}
        keys = {name: jax.random.fold_in(stream(config.seed, name), state.step) for name in ("dropout", "loss")}
        progress = state.step / config.num_steps

        params = state.params if used is None else jax.lax.with_sharding_constraint(state.params, used)

        def gradients(batch_stats, keys, part):
            gradient = jax.grad(loss_of, has_aux=True)
            given = params, batch_stats, state.constants, keys, part, normalizers, progress
            return gradient(trained(params, freeze), *given)

        if config.accumulate == 1:
            grads, (batch_stats, measured) = gradients(state.batch_stats, keys, batch)
        else:
            grads, batch_stats, measured = accumulated(gradients, state.batch_stats, keys, batch, config.accumulate)
        for loss in losses:
            measured |= loss.reports(batch)
        measured |= {"learning_rate": schedule(state.step), "gradient_norm": optax.tree_utils.tree_norm(grads)}
        return train_state.update(state, grads, batch_stats, tx, config.ema_decay), measured

    return train_step


def compile_train_step(config, model, tx, schedule, losses, metrics, mesh, blank, batch):
    """`make_train_step`'s step compiled for the devices of `mesh`, also another machine's; the state is donated.

    blank: of `start.blank_state`. batch: the global one, or its shapes with shardings.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, blank)
    used = parallel.param_shardings(mesh, blank.params) if config.mesh.fsdp else None
    step = make_train_step(model, tx, schedule, config, losses, metrics, used)
    options = {"donate_argnums": 0, "out_shardings": (layout, parallel.replicated(mesh))}
    return parallel.jit(step, mesh=mesh, **options).lower(blank, batch).compile()


def accumulated(gradients, batch_stats, keys, batch, count: int):
    """The sums of `gradients` over `count` parts of a batch, one after the other; the running statistics follow along.

    Part i is made of images i, i + count, ...: each device splits its own images, and none moves.
    """
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(carry, part):
        batch_stats, sums = carry
        own = keys | {"dropout": jax.random.fold_in(keys["dropout"], part[0])}  # losses fold in an image's place
        grads, (batch_stats, measured) = gradients(batch_stats, own, part[1])
        return (batch_stats, jax.tree.map(jnp.add, sums, (grads, measured))), None

    head = jax.tree.map(lambda x: x[0], parts)
    grads, (_, measured) = jax.eval_shape(gradients, batch_stats, keys, head)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, measured))
    (batch_stats, (grads, measured)), _ = jax.lax.scan(add, (batch_stats, zeros), (jnp.arange(count), parts))
    return grads, batch_stats, measured
