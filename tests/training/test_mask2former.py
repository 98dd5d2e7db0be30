"""Training Mask2Former: two steps of the PyTorch reference, with its points, its optimiser alone, and its groups."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from se_jax.config import optimizers as recipes
from se_jax.importers import convert, import_weights
from se_jax.losses.assignment import assign
from se_jax.losses.masks import targets
from se_jax.models import Segmenter
from se_jax.training import optimizers
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
