"""The loss of a set of masks: against the reference's recorded costs, matches, losses and gradients, and by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from se_jax import losses, parallel
from se_jax.config import options
from se_jax.losses.assignment import assign
from se_jax.losses.masks import SetLoss, targets
from se_jax.losses.points import sample, sample_classes
from tests import tiny
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
    return Given(
        **options,
        together=most,  # one group, so that no place for a target lacks points
        points=points["match"].shape[2],
        match=points["match"],
        candidates=by_target(points["candidates"], match, most),
        others=by_target(points["random"], match, most),
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
    def both(classes, masks):
        def total(classes, masks):
            outputs = outputs_of(classes, masks)
            terms = loss.of_predictions(outputs, label, loss.normalizer({"label": label}), keys)
            terms = jnp.stack(list(terms.values()), axis=-1)
            return jnp.sum(terms), (terms, loss.costs(outputs, label, wanted.ids, keys))

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(classes, masks)

    (value, (terms, costs)), gradients = both(case["in/classes"], case["in/masks"])
    np.testing.assert_allclose(terms, case["out/losses"], atol=2e-6)
    np.testing.assert_allclose(value, case["out/total"], rtol=1e-6)
    assert_close_to_reference(gradients[0], case["out/grad_classes"])
    assert_close_to_reference(gradients[1], case["out/grad_masks"])
    real = wanted.ids[:, None] >= 0
    expected = case["out/costs"].sum(axis=2)  # of class, mask and dice, weighted
    np.testing.assert_allclose(jnp.where(real, costs, 0), expected, atol=5e-6)
    np.testing.assert_array_equal(assign(costs, wanted.count), match)


def test_point_samples_are_the_references(golden):
    case = golden("m2f_ops")
    for name in ("logits", "binary"):
        found = sample(case[f"in/points/{name}"], case["in/points/coords"][:, None])
        assert_close_to_reference(found, case[f"out/points/{name}"])


def test_classes_are_sampled_as_their_masks_are():
    """With points in the corners, where a part of the four pixels lies outside."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (2, 5, 7)).astype(np.uint8)
    label[label == 3] = 255
    ids = jnp.array([[0, 2, -1], [1, 2, 0]])
    points = jnp.concatenate(
        [rng.random((2, 1, 40, 2)), jnp.tile(jnp.array([0.0, 1.0])[:, None], (2, 1, 1, 2))], axis=2
    )
    masks = (label[:, None] == ids[..., None, None]).astype(np.float32)
    np.testing.assert_allclose(sample_classes(label, points, ids), sample(masks, points), atol=1e-6)


# ---- Targets ----


def test_targets_are_the_first_classes_of_an_image_and_the_rest_is_counted():
    label = jnp.array([[[7, 3, 255], [3, 3, 149]], [[255, 255, 255], [255, 255, 255]]], jnp.uint8)
    found = targets(label, 150, 2)
    np.testing.assert_array_equal(found.ids, [[3, 7], [-1, -1]])
    np.testing.assert_array_equal(found.count, [2, 0])
    np.testing.assert_array_equal(found.dropped, [1, 0])
    loss = SetLoss(num_classes=150, queries=4, targets=2)
    assert loss.reports({"label": label})["classes_dropped"] == 1
    assert SetLoss(num_classes=3, queries=4, targets=3).reports({"label": label}) == {}
    normalizer = loss.normalizer({"label": label})
    np.testing.assert_allclose([normalizer["masks"], normalizer["classes"]], [2, 2 + 0.1 * 6])


def test_more_targets_than_queries_are_refused():
    with pytest.raises(ValueError, match="loss.masks.targets is 5; expected 1 to 4, as there are so many queries"):
        SetLoss(num_classes=5, queries=4, targets=5)


# ---- The whole loss, on random outputs ----

LOSS = SetLoss(num_classes=6, queries=7, targets=4, points=16, together=2)


def random_case(images=8, predictions=2, seed=0):
    """Outputs, and labels [b, 14, 20] with 0 to 6 classes; the network has padded its images to 16x24."""
    rng = np.random.default_rng(seed)
    label = np.stack([rng.integers(0, 1 + image % 6, (14, 20)) for image in range(images)]).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    label[3] = 255  # nothing to learn
    sizes = {
        "class_logits": (predictions, images, 7, 7),
        "mask_embeddings": (predictions, images, 7, 5),
        "mask_features": (images, 4, 6, 5),
    }
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}, label


def loss_and_gradients(outputs, label, place, normalizer, loss=LOSS):
    def total(outputs):
        batch = {"label": label, "place": place}
        terms = loss(outputs, {}, batch, normalizer, jax.random.key(1))
        return sum(terms.values()), terms

    (_, terms), gradients = jax.value_and_grad(total, has_aux=True)(outputs)
    return terms, gradients


@pytest.fixture(scope="module")
def whole():
    outputs, label = random_case()
    step = jax.jit(loss_and_gradients)
    return outputs, label, step, step(outputs, label, np.arange(8), LOSS.normalizer({"label": label}))


def test_images_on_eight_devices_give_what_they_give_on_one(whole):
    outputs, label, step, expected = whole
    mesh = parallel.make_mesh()
    axes = {"class_logits": 1, "mask_embeddings": 1, "mask_features": 0}
    placed = {
        name: jax.device_put(x, NamedSharding(mesh, P(*[None] * axes[name], "data"))) for name, x in outputs.items()
    }
    label = parallel.shard_batch(mesh, label)
    terms, gradients = step(placed, label, jnp.arange(8), LOSS.normalizer({"label": label}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), (terms, gradients), expected)


def test_parts_of_a_batch_add_up_to_it(whole):
    """Each image has its own points, wherever it stands and however many masks are made at once."""
    outputs, label, _, (terms, gradients) = whole
    normalizer = LOSS.normalizer({"label": label})
    step = jax.jit(functools.partial(loss_and_gradients, loss=dataclasses.replace(LOSS, together=3)))
    summed = dict.fromkeys(terms, 0.0)
    for places in np.array([[6, 0, 3, 2], [1, 5, 4, 7]]):
        part = {name: x[:, places] if name != "mask_features" else x[places] for name, x in outputs.items()}
        found, slopes = step(part, label[places], places, normalizer)
        summed = {name: summed[name] + found[name] for name in summed}
        for name, slope in slopes.items():
            whole_slope = gradients[name][places] if name == "mask_features" else gradients[name][:, places]
            np.testing.assert_allclose(slope, whole_slope, rtol=2e-6, atol=1e-7)
    for name, term in terms.items():
        np.testing.assert_allclose(summed[name], term, rtol=2e-6)


def test_images_without_a_class_train_the_classes_alone(whole):
    outputs, _, step, _ = whole
    nothing = np.full((8, 14, 20), 255, np.uint8)
    terms, gradients = step(outputs, nothing, np.arange(8), LOSS.normalizer({"label": nothing}))
    assert terms["loss_mask"] == terms["loss_dice"] == 0 and terms["loss_class"] > 0
    assert not np.any(gradients["mask_features"]) and not np.any(gradients["mask_embeddings"])
    # twice the mean over all queries, by the same weight, of -log p(no object); two predictions
    expected = -2 * 2 * np.mean(jax.nn.log_softmax(outputs["class_logits"])[..., -1])
    np.testing.assert_allclose(terms["loss_class"], expected, rtol=1e-6)


def test_networks_of_queries_have_no_cross_entropy():
    with pytest.raises(ValueError, match="EoMTHead gives masks of queries and no logits; set loss.name='masks'"):
        losses.build(options.get_config().loss, tiny.network("eomt"))


def test_an_id_of_no_class_makes_the_loss_nan(whole):
    outputs, label, step, _ = whole
    strange = label.copy()
    strange[0, 0, 0] = 6
    terms, _ = step(outputs, strange, np.arange(8), LOSS.normalizer({"label": strange}))
    assert np.isnan(terms["loss_class"])
