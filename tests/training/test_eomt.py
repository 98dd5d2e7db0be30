"""Training EoMT: four steps of the authors' code, with its points and draws; its schedules and rates."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from se_jax import losses, parallel
from se_jax.config import optimizers as recipes
from se_jax.config import options
from se_jax.importers import convert, import_weights
from se_jax.losses.assignment import assign
from se_jax.losses.masks import targets
from se_jax.models import EoMTHead
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step
from tests import tiny
from tests.conftest import assert_close_to_reference
from tests.losses.test_masks import by_target, given_points
from tests.models.test_eomt import MEAN, STD, Given, make, template
from tests.training.test_optimizers import effective

GRADIENT_TOLERANCE = 3e-4  # of a tensor's standard deviation


@pytest.fixture(scope="module")
def case(golden):
    return golden("eomt_train", "whole")


@pytest.fixture(scope="module")
def model(case):
    meta = case.meta
    made = make(meta, case.group("sd"))
    total = meta["total_steps"]
    spans = tuple((start / total, end / total) for start, end in zip(*meta["annealing"], strict=True))
    return made.clone(decoder=made.decoder.clone(anneal=spans))


def settings(meta, depth: int, **changes) -> ConfigDict:
    first, second = meta["warmup_steps"]
    return ConfigDict(recipes.adamw_eomt(depth, warmup_steps=first, second_warmup_steps=second, **changes))


def points_of(case, step: int, classes: int):
    """The case's points of a step as the loss takes them, and the queries of the targets, [p, b, classes]."""
    given = case.group(f"step{step}")
    predictions, images = case.meta["blocks"] + 1, len(case["in/label"])
    queries = np.full((predictions, images, classes), -1)
    match = np.zeros((predictions, images, case.meta["num_points"], 2), np.float32)
    for p in range(predictions):
        for b in range(images):
            rows, columns = given[f"match/{p}/{b}"]
            queries[p, b, columns] = rows
            match[p, b] = given[f"points/{p}/matching/{b}"]
    placed = {
        ours: by_target(np.stack([given[f"points/{p}/{theirs}"] for p in range(predictions)]), queries, classes)
        for ours, theirs in (("candidates", "candidates"), ("others", "random"))
    }
    return {"match": match, **placed}, queries


def test_four_steps_are_the_authors(case, model):
    """Losses, matches and gradients of each step, from its weights; then the weights, from its gradients."""
    meta, head, label = case.meta, model.decoder, jnp.asarray(case["in/label"])
    shapes = template(model, meta["size"])
    tx, _ = optimizers.build(settings(meta, model.encoder.sizes.depth), meta["total_steps"])
    params = import_weights(model, case.group("sd"), shapes)["params"]
    buffers = {name: tensor for name, tensor in case.group("sd").items() if "pixel" in name}
    opt_state, update = tx.init(params), jax.jit(tx.update)
    images = (case["in/image"].transpose(0, 2, 3, 1) / 255 - MEAN) / STD
    network = Given(model.encoder, head)
    points, queries = points_of(case, 0, head.num_classes)
    raw = {"match": points["match"], "candidates": points["candidates"][:, 0], "random": points["others"][:, 0]}
    loss = given_points(
        raw,
        np.full_like(queries, -1),
        num_classes=head.num_classes,
        queries=head.queries,
        targets=head.num_classes,
    )
    keys = jax.random.split(jax.random.key(0), len(images))

    @jax.jit
    def measure(params, opened, points):
        given = dataclasses.replace(loss, **points)

        def total(params):
            outputs = network.apply({"params": params}, images, opened)
            terms = given.of_predictions(outputs, label, given.normalizer({"label": label}), keys)
            wanted = targets(label, given.num_classes, given.targets)
            features = outputs | {"mask_features": outputs["mask_features"]}
            queries = assign(jax.lax.stop_gradient(given.costs(features, label, wanted.ids, keys)), wanted.count)
            terms = jnp.stack(list(terms.values()), axis=-1)
            return jnp.sum(terms), (terms, queries)

        return jax.grad(total, has_aux=True)(params)

    for step in range(len(meta["losses"])):
        shares = head.masked_shares(step / meta["total_steps"])
        np.testing.assert_allclose(shares, meta["attn_mask_probs"][step], rtol=1e-6)
        draws = [
            case[f"step{step}/uniform/{j}"] if f"step{step}/uniform/{j}" in case.arrays else np.zeros((2, head.queries))
            for j in range(head.blocks)
        ]
        opened = np.stack(draws) > np.asarray(shares)[:, None, None]
        points, expected_queries = points_of(case, step, head.num_classes)
        gradients, (terms, queries) = measure(params, opened, points)
        found_queries = np.asarray(queries)
        for p, b in np.ndindex(found_queries.shape[:2]):  # ours are of the targets by their ids, as theirs are
            np.testing.assert_array_equal(found_queries[p, b], expected_queries[p, b], err_msg=f"{step} {p} {b}")
        told = meta["losses"][step]
        for p in range(head.blocks + 1):
            suffix = f"_block_{p - head.blocks}" if p < head.blocks else ""
            expected = [2, 5, 5] * np.array(
                [told[f"loss_{kind}{suffix}"] for kind in ("cross_entropy", "mask", "dice")]
            )
            np.testing.assert_allclose(terms[p], expected, rtol=2e-5)
        norm = optax.tree_utils.tree_norm(gradients)
        np.testing.assert_allclose(norm, meta["grad_norm_before_clipping"][step], rtol=1e-5)
        expected = case.group(f"step{step}/grad")
        for name, gradient in convert.export_weights(model, {"params": gradients}, "eomt").items():
            error = np.abs(gradient - expected[name]).max() / max(expected[name].std(), 1e-12)
            assert error <= GRADIENT_TOLERANCE, (step, name, error)

        stored = import_weights(model, expected | buffers, shapes)["params"]
        updates, opt_state = update(stored, opt_state, params)
        weights = convert.export_weights(model, {"params": optax.apply_updates(params, updates)}, "eomt")
        expected = case.group(f"step{step}/after")
        for name, weight in weights.items():
            assert_close_to_reference(weight, expected[name])
        params = import_weights(model, expected | buffers, shapes)["params"]


def test_every_parameter_has_the_authors_rate_and_decay(case, model):
    shapes, found = template(model, case.meta["size"])["params"], []
    recipe = recipes.adamw_eomt(model.encoder.sizes.depth, clip_norm=0.0, second_warmup_steps=0)
    for values in effective(recipe, shapes):
        filled = jax.tree.map(lambda leaf, value: np.full(leaf.shape, value), shapes, values)
        tensors = convert.export_weights(model, {"params": filled}, "eomt")
        found.append({name: tensor.flat[-1] for name, tensor in tensors.items()})
    groups = case.meta["groups"]
    assert found[0].keys() == groups.keys()
    for name, (rate, decay) in groups.items():
        np.testing.assert_allclose([1e-4 * found[0][name], found[1][name]], [rate, decay], rtol=1e-5, err_msg=name)


CURVES = {  # warm-ups, steps, spans of the published recipes
    "ade20k": (500, 1000, 39_153, (6520, 13_040, 19_560, 26_080), (13_040, 19_560, 26_080, 32_600)),
    "cityscapes": (500, 1000, 19_795, (3317, 6634, 9951, 13_268), (6634, 9951, 13_268, 16_585)),
    "dinov3_ade": (2000, 3000, 20_208, (0, 6520, 9780, 13_040), (3000, 9780, 13_040, 16_300)),
}


@pytest.mark.parametrize("name", CURVES)
def test_schedules_equal_the_authors(golden, name):
    first, second, total, starts, ends = CURVES[name]
    table = golden("eomt_infer", "whole")[f"curves/{name}"]
    steps = table[:, 0].astype(int)
    head = optimizers.two_stage_schedule(1.0, total, warmup_steps=first)
    encoder = optimizers.two_stage_schedule(1.0, total, warmup_steps=second, wait_steps=first)
    spans = tuple((start / total, end / total) for start, end in zip(starts, ends, strict=True))
    shares = jax.vmap(EoMTHead(5, blocks=4, anneal=spans).masked_shares)(jnp.asarray(steps) / total)
    np.testing.assert_allclose(jax.vmap(head)(jnp.asarray(steps)), table[:, 1], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(encoder)(jnp.asarray(steps)), table[:, 2], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(shares, table[:, 3:], rtol=2e-4, atol=1e-6)


# ---- Steps of the trainer ----


class Squares(losses.Loss):
    """The mean square of all masks and classes: quick to compile, as Mask2Former's loss is tested on many devices."""

    def normalizer(self, batch):
        return len(batch["label"])

    def __call__(self, outputs, constants, batch, normalizer, key):
        names = ("mask_features", "class_logits")
        return {name: jnp.sum(jnp.tanh(outputs[name]) ** 2) / normalizer for name in names}


def test_steps_are_the_same_on_eight_devices_and_go_on_from_a_saved_state_to_the_same_bits():
    """In the midst of annealing: some queries are masked, others opened, in each step and image anew."""
    config, model = options.get_config(), tiny.network("eomt")
    model = model.clone(decoder=model.decoder.clone(anneal=((0.0, 1.0),)))
    config.num_steps, tx = 8, optax.sgd(1.0)
    step = make_train_step(model, tx, lambda step: 1.0, config, [Squares()])
    begun = state.create(tiny.init(model, 16), tx)._replace(step=jnp.int32(4))
    batch = {"image": tiny.images(8, 16), "label": np.zeros((8, 16, 16), np.uint8)}
    batch["size"] = np.full((8, 2), 16, np.int32)

    def run(devices: int):
        """(the state and what was measured after a step, how to do one more)."""
        mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        whole = parallel.replicated(mesh)
        compiled = parallel.jit_once(step, out_shardings=whole)
        placed = parallel.shard_batch(mesh, batch)
        return *compiled(jax.device_put(begun, whole), placed), lambda reached: compiled(reached, placed)[0]

    (one, expected, _), (eight, found, go_on) = run(1), run(8)
    for name in ("mask_features", "class_logits", "gradient_norm"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
    gradients = (jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, begun.params) for state in (eight, one))
    jax.tree.map(functools.partial(assert_close_to_reference, tolerance=1e-3), *gradients)

    again, other = go_on(jax.device_get(eight)), go_on(eight._replace(step=jnp.int32(7)))
    jax.tree.map(np.testing.assert_array_equal, again, go_on(eight))
    query = again.params["decoder"]["query"]
    assert np.any(query != other.params["decoder"]["query"])  # the step decides who is opened
