"""Training Mask2Former: two steps of the PyTorch reference, with its points, its optimiser alone, and its groups."""

import dataclasses

import flax.linen as nn
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
from se_jax.models import Mask2FormerHead, Segmenter
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step
from tests.conftest import assert_close_to_reference
from tests.losses.test_masks import by_target, given_points
from tests.models.test_mask2former import make_encoder, make_head, nhwc
from tests.training.test_optimizers import effective

GRADIENT_TOLERANCE = 3e-4  # of a tensor's standard deviation: float32 noise of the reference itself is 2.5e-5


@pytest.fixture(scope="module")
def case(golden):
    return golden("m2f_train", "whole")


@pytest.fixture(scope="module")
def model(case):
    config = case.meta["model"]
    return Segmenter(make_encoder(config["backbone"]).clone(drop_path=0.0), make_head(config["decode_head"]))


@pytest.fixture(scope="module")
def template(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 96, 3)))


@pytest.fixture(scope="module")
def measure(case, model):
    """(params, images, label, points [p, ...]) -> gradients, terms [p, 3] and the queries of the targets [p, b, m]."""
    first = case.group("points/0")
    head = model.decoder
    blank = np.full((*first["match"].shape[:2], head.num_classes), -1)
    loss = given_points(first, blank, num_classes=head.num_classes, queries=head.queries, targets=head.num_classes)

    @jax.jit
    def run(params, images, label, points):
        given = dataclasses.replace(loss, **points)

        def total(params):
            outputs = model.apply({"params": params}, images, train=True)
            terms = given.of_predictions(outputs, label, given.normalizer({"label": label}), keys)
            wanted = targets(label, given.num_classes, given.targets)
            queries = assign(jax.lax.stop_gradient(given.costs(outputs, label, wanted.ids, keys)), wanted.count)
            terms = jnp.stack(list(terms.values()), axis=-1)
            return jnp.sum(terms), (terms, queries)

        return jax.grad(total, has_aux=True)(params)

    keys = jax.random.split(jax.random.key(0), 2)
    return run


def place(points, queries, most):
    """The reference's points, as the loss takes them."""
    placed = {"candidates": points["candidates"], "others": points["random"]}
    return {"match": points["match"]} | {name: by_target(array, queries, most) for name, array in placed.items()}


def test_two_steps_are_the_references(case, model, template, measure):
    """Losses and gradients of each step, from the reference's weights; then the weights, from its gradients."""
    settings = ConfigDict(recipes.adamw_mask2former())
    tx, _ = optimizers.build(settings, case.meta["total"])
    params = import_weights(model, case.group("sd"), template)["params"]
    opt_state, update = tx.init(params), jax.jit(tx.update)
    for step in range(case.meta["steps"]):
        batch = nhwc(case["in/images"][step]), case["in/labels"][step]
        points, most = case.group(f"points/{step}"), model.decoder.num_classes
        nowhere = np.full((*points["match"].shape[:2], most), -1)
        _, (_, queries) = measure(params, *batch, place(points, nowhere, most))  # which are placed by the match
        gradients, (terms, _) = measure(params, *batch, place(points, np.asarray(queries), most))
        np.testing.assert_allclose(terms, case[f"out/{step}/losses"], rtol=1e-5)
        expected = case.group(f"out/{step}/grad")
        found = convert.export_weights(model, {"params": gradients})
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            error = np.abs(gradient - expected[name]).max() / max(expected[name].std(), 1e-12)
            assert error <= GRADIENT_TOLERANCE, (name, error)

        stored = import_weights(model, expected, template)["params"]
        updates, opt_state = update(stored, opt_state, params)
        weights = convert.export_weights(model, {"params": optax.apply_updates(params, updates)})
        expected = case.group(f"out/{step}/sd")
        for name, weight in weights.items():
            assert_close_to_reference(weight, expected[name])
        params = import_weights(model, expected, template)["params"]


def test_every_parameter_has_the_references_rate_and_decay(case, model, template):
    found = []
    for values in effective(recipes.adamw_mask2former(clip_norm=0.0), template["params"]):
        filled = jax.tree.map(lambda leaf, value: np.full(leaf.shape, value), template["params"], values)
        tensors = convert.export_weights(model, {"params": filled})
        found.append({name: tensor.flat[0] for name, tensor in tensors.items()})
    groups = case.meta["groups"]
    assert found[0].keys() == groups.keys()
    for name, (rate, decay) in groups.items():
        np.testing.assert_allclose([1e-4 * found[0][name], found[1][name]], [rate, decay], rtol=1e-5, err_msg=name)


# ---- A step of the trainer ----


class Pyramid(nn.Module):
    """Images -> four maps of 8 channels, of strides 4 to 32: means of pixels, projected."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        means = (nn.avg_pool(images, (stride, stride), (stride, stride)) for stride in (4, 8, 16, 32))
        return tuple(nn.Dense(8)(x) for x in means)


def test_a_step_is_the_same_on_eight_devices_and_in_parts():
    """150 classes; images smaller than the padding's multiple, one of them without a label, one with 30 classes."""
    config = options.get_config()
    head = Mask2FormerHead(150, 64, queries=12, layers=1, hidden=16, pixel_layers=1, pixel_hidden=16)
    model = Segmenter(Pyramid(), head)
    config.loss.update(name="masks", masks={"targets": 10, "points": 32, "no_object": 0.1})
    rng = np.random.default_rng(0)
    label = np.stack([rng.integers(0, 3 + image, (40, 56)) * 7 % 150 for image in range(16)]).astype(np.uint8)
    label[2] = 255
    label[5] = rng.integers(0, 30, (40, 56))
    batch = {"image": rng.integers(0, 256, (16, 40, 56, 3)).astype(np.uint8), "label": label}
    batch["size"] = np.tile(np.array([40, 56], np.int32), (16, 1))
    _, schedule = optimizers.build(config.optimizer, 10)
    variables = parallel.jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 40, 56, 3)))
    # at birth samples fall on pixels' centres, where the gradient by their places jumps
    variables = jax.tree.map(lambda x: x + rng.normal(scale=0.05, size=x.shape).astype(np.float32), variables)

    def step(devices, accumulate):
        config.accumulate = accumulate
        mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        begun = jax.device_put(state.create(variables, optax.sgd(1.0)), parallel.replicated(mesh))
        run = make_train_step(model, optax.sgd(1.0), schedule, config, losses.build(config.loss, model))
        after, measured = parallel.jit_once(run)(begun, parallel.shard_batch(mesh, batch))
        gradients = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), begun.params, after.params)
        return gradients, {name: float(value) for name, value in measured.items() if name != "metrics"}

    (gradients, measured), (others, same) = step(1, 1), step(8, 2)
    assert measured["classes_dropped"] == sum(max(0, len(set(x[x < 150])) - 10) for x in label)
    for name, value in measured.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), others, gradients)
