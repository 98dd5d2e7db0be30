"""The loss of a set of masks: queries are matched with the classes of an image, one to one, and follow their masks.

Mask2Former's for semantic segmentation (Cheng et al., CVPR 2022, https://arxiv.org/abs/2112.01527; its code at
github.com/facebookresearch/Mask2Former, 9b0651c: matcher.py, criterion.py). Everything here is float32.

The mask of a class is where the label is that class, so no mask is made: what is needed of one, at points, is read from
the label map. Pixels that are ignored belong to no class, and are therefore outside of every mask, as in the original.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from se_jax.losses.assignment import assign
from se_jax.losses.base import IGNORE, Loss
from se_jax.losses.points import draw, sample, sample_classes
from se_jax.losses.ranks import lowest

OVERSAMPLE, IMPORTANT = 3, 0.75  # candidates for each point of a loss; share of the points that are uncertain ones
CLASS, MASK, DICE = 2.0, 5.0, 5.0  # weights of the terms, and of the same terms in the costs
EXACT = lax.Precision.HIGHEST  # float32 products on accelerators too


class Targets(NamedTuple):
    """Classes of images: ids int32 [b, m], ascending, then -1; count [b], how many; dropped [b], how many more."""

    ids: Any
    count: Any
    dropped: Any


def targets(label, num_classes: int, most: int) -> Targets:
    """The first `most` classes that occur in each label map [b, h, w]."""
    histogram = jax.vmap(lambda ids: jnp.bincount(ids, length=IGNORE + 1))(label.reshape(len(label), -1))
    there = histogram[:, :num_classes] > 0
    ids = jnp.argsort(~there, axis=-1, stable=True)[:, :most].astype(jnp.int32)
    found = jnp.sum(there, axis=-1)
    count = jnp.minimum(found, most)
    return Targets(jnp.where(jnp.arange(most) < count[:, None], ids, -1), count, found - count)


@dataclasses.dataclass(frozen=True)
class SetLoss(Loss):
    """Cross entropy of the queries' classes, binary cross entropy and dice loss of the matched queries' masks.

    {'loss_class', 'loss_mask', 'loss_dice'}, each the sum over all predictions (one a decoder layer, and one before).
    Masks are divided by their number in the whole batch, on however many devices it lies. So are the classes, by the
    weights of all queries; the original takes that mean on each device, and then the mean of those.

    Attributes:
      num_classes: K. queries: of the network.
      targets: classes of an image that are learned, at most `queries`; of more the first ones are, by their ids, and
        how many were left out is told as 'classes_dropped', a number a batch.
      points: at which masks are compared.
      no_object: weight of a query that is matched with no class.
      together: most masks of an image that are computed at once.
      pad_to: label maps are padded, by ignored pixels, to sides that are multiples of this, as the images are.

    Raises:
      ValueError: there are more targets than queries.
    """

    num_classes: int
    queries: int
    targets: int
    points: int = 112 * 112
    no_object: float = 0.1
    together: int = 10
    pad_to: int = 1

    def __post_init__(self):
        if not 1 <= self.targets <= self.queries:
            raise ValueError(
                f"loss.masks.targets is {self.targets}; expected 1 to {self.queries}, as there are so many queries "
                "(model.decoder.queries), and each class needs one"
            )

    def normalizer(self, batch):
        """{'masks', 'classes'}: the number of masks, at least 1; the weights of all queries."""
        masks = jnp.sum(self._targets(batch["label"]).count).astype(jnp.float32)
        queries = len(batch["label"]) * self.queries
        return {"masks": jnp.maximum(masks, 1), "classes": masks + self.no_object * (queries - masks)}

    def reports(self, batch):
        if self.targets == self.num_classes:
            return {}
        return {"classes_dropped": jnp.sum(self._targets(batch["label"]).dropped)}

    def __call__(self, outputs, constants, batch, normalizer, key):
        """Outputs {'class_logits' [p, b, q, K + 1], 'mask_embeddings' [p, b, q, c], 'mask_features' [b, h, w, c]}.

        Each prediction may have features of its own, [p, b, h, w, c]. They are of the label's sides, or of those to
        which the network has padded the images, divided by some stride. An id in K..254 makes the first term NaN, which
        stops a run.
        """
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(batch["place"])
        terms = self.of_predictions(outputs, batch["label"], normalizer, keys)
        return {name: self.weight * jnp.sum(term) for name, term in terms.items()}

    def of_predictions(self, outputs, label, normalizer, keys) -> dict[str, Any]:
        """The terms of each prediction, {name: [p]}; keys: one an image, [b]."""
        outputs = jax.tree.map(lambda x: x.astype(jnp.float32), outputs)
        label = self._padded(label)
        wanted = self._targets(label)
        queries = assign(lax.stop_gradient(self.costs(outputs, label, wanted.ids, keys)), wanted.count)
        of_class = self._class_losses(outputs["class_logits"], wanted.ids, queries) / normalizer["classes"]
        strange = jnp.any((label >= self.num_classes) & (label != IGNORE))
        of_masks = self._mask_losses(outputs, label, wanted, queries, keys) / normalizer["masks"]
        return {
            "loss_class": CLASS * jnp.where(strange, jnp.nan, of_class),
            "loss_mask": MASK * of_masks[:, 0],
            "loss_dice": DICE * of_masks[:, 1],
        }

    def costs(self, outputs, label, ids, keys):
        """What each query would cost for each target, float32 [p, b, q, m]; those of targets -1 mean nothing."""

        features = _by_prediction(outputs["mask_features"])

        def of_prediction(prediction):
            number, classes, embeddings = prediction
            points = self.matching_points(keys, number)[:, None]
            logits = sample(_masks(embeddings, features[number % len(features)]), points)
            return match_costs(classes, logits, sample_classes(label, points, ids), ids)

        numbers = jnp.arange(len(outputs["class_logits"]))
        return lax.map(of_prediction, (numbers, outputs["class_logits"], outputs["mask_embeddings"]))

    def matching_points(self, keys, prediction):
        """[b, points, 2], at which the queries and targets of an image are compared."""
        return jax.vmap(lambda key: draw(_fold(key, prediction, 0), self.points))(keys)

    def candidate_points(self, keys, prediction, targets):
        """Points for the masks of `targets` [s], numbers of targets.

        Returns:
          ([b, s, 3 * points, 2], of which the uncertain ones are taken; [b, s, points / 4, 2], taken as they are).
        """
        important = int(IMPORTANT * self.points)

        def both(key, target):
            points = draw(_fold(key, prediction, 1 + target), (OVERSAMPLE + 1) * self.points - important)
            return points[: OVERSAMPLE * self.points], points[OVERSAMPLE * self.points :]

        return jax.vmap(jax.vmap(both, (None, 0)), (0, None))(keys, targets)

    def _padded(self, label):
        """The label map, with ignored pixels at the bottom and right where the network has padded the images."""
        ends = [(0, -side % self.pad_to) for side in label.shape[1:]]
        return jnp.pad(label, [(0, 0), *ends], constant_values=IGNORE)

    def _targets(self, label) -> Targets:
        return targets(label, self.num_classes, self.targets)

    def _class_losses(self, logits, ids, queries):
        """The weighted sum of the queries' cross entropies, [p]."""
        taken = queries[..., None] == jnp.arange(logits.shape[2])  # [p, b, m, q]
        wanted = jnp.max(jnp.where(taken, ids[..., None], -1), axis=2)
        wanted = jnp.where(wanted < 0, self.num_classes, wanted)
        weight = jnp.where(wanted == self.num_classes, self.no_object, 1.0)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
        return jnp.sum(weight * loss, axis=(1, 2))

    def _mask_losses(self, outputs, label, wanted: Targets, queries, keys):
        """Sums over the targets of their binary cross entropy and their dice loss, [p, 2].

        A few masks of a prediction are made at once, up to the last that an image has, and again for the gradient.
        """
        predictions, images, most = queries.shape
        groups = -(-most // self.together)
        together = -(-most // groups)
        end = groups * together - most
        matched = jnp.take_along_axis(outputs["mask_embeddings"], queries[..., None].clip(0), axis=2)
        matched = jnp.pad(matched, ((0, 0), (0, 0), (0, end), (0, 0)))
        matched = matched.reshape(predictions, images, groups, together, -1).swapaxes(1, 2)
        ids = jnp.pad(wanted.ids, ((0, 0), (0, end)), constant_values=-1).reshape(images, groups, together)

        def losses(embeddings, features, place):
            """Of the masks of a group, [2]."""
            prediction, group = place
            slots = group * together + jnp.arange(together)
            maps, classes = _masks(embeddings, features), ids[:, group]
            points = uncertain_points(lax.stop_gradient(maps), *self.candidate_points(keys, prediction, slots))
            both = point_losses(sample(maps, points), sample_classes(label, points, classes))
            return jnp.sum(jnp.where(classes >= 0, both, 0), axis=(1, 2))

        used = -(-jnp.max(wanted.count) // together)
        return _sum_of_groups(losses, used)(matched, _by_prediction(outputs["mask_features"]))


def _sum_of_groups(losses, used):
    """(embeddings [p, groups, ...], features) -> the sum of `losses` over the first `used` groups, [p, 2].

    features: [1, ...], of all predictions, or [p, ...].
    losses: (embeddings of a group, features, (prediction, group)) -> [2]. A loop whose length is known only when it
    runs has no gradient of its own; this one keeps nothing but its arguments for it.
    """

    def loop(predictions: int, add, start):
        return lax.fori_loop(0, predictions * used, lambda step, sums: add((step // used, step % used), sums), start)

    @jax.custom_vjp
    def total(embeddings, features):
        def add(place, sums):
            return sums.at[place[0]].add(losses(embeddings[place], features[place[0] % len(features)], place))

        return loop(len(embeddings), add, jnp.zeros((len(embeddings), 2)))

    def backward(arguments, slopes):
        embeddings, features = arguments

        def add(place, sums):
            own = place[0] % len(features)
            _, pull = jax.vjp(lambda *given: losses(*given, place), embeddings[place], features[own])
            of_embeddings, of_features = pull(slopes[place[0]])
            return sums[0].at[place].set(of_embeddings), sums[1].at[own].add(of_features)

        return loop(len(embeddings), add, jax.tree.map(jnp.zeros_like, arguments))

    total.defvjp(lambda *arguments: (total(*arguments), arguments), backward)
    return total


def match_costs(class_logits, mask_logits, truth, ids):
    """The weighted sum of three costs, float32 [b, q, m].

    Args:
      class_logits: [b, q, K + 1]. mask_logits: [b, q, p], at points. truth: [b, m, p], the masks there. ids: [b, m].
    """
    of_class = -jnp.take_along_axis(jax.nn.softmax(class_logits), ids[:, None].clip(0), axis=-1)
    inside = jax.nn.sigmoid(mask_logits)
    products = jnp.einsum("xbqp,bmp->xbqm", jnp.stack([mask_logits, inside]), truth, precision=EXACT)
    # t softplus(-x) + (1 - t) softplus(x) = softplus(x) - t x
    of_mask = (jnp.sum(jax.nn.softplus(mask_logits), axis=-1, keepdims=True) - products[0]) / mask_logits.shape[-1]
    of_dice = _dice(products[1], jnp.sum(inside, axis=-1, keepdims=True) + jnp.sum(truth, axis=-1)[:, None])
    return CLASS * of_class + MASK * of_mask + DICE * of_dice


def point_losses(logits, truth):
    """Binary cross entropy and dice loss [2, ...] of masks at their points, logits and truth [..., p]."""
    of_mask = jnp.mean(jax.nn.softplus(logits) - truth * logits, axis=-1)
    inside = jax.nn.sigmoid(logits)
    of_dice = _dice(jnp.sum(inside * truth, axis=-1), jnp.sum(inside, axis=-1) + jnp.sum(truth, axis=-1))
    return jnp.stack([of_mask, of_dice])


def uncertain_points(maps, candidates, others):
    """Of `candidates` [..., n, 2] those whose logits in `maps` [..., h, w] are nearest to 0, n / 4 of them; and others.

    A quarter, as 3/4 of the points are chosen of three times as many candidates.
    """
    uncertain = lowest(jnp.abs(sample(maps, candidates)), int(IMPORTANT * candidates.shape[-2] // OVERSAMPLE))
    return jnp.concatenate([jnp.take_along_axis(candidates, uncertain[..., None], axis=-2), others], axis=-2)


def _dice(product, total):
    return 1 - (2 * product + 1) / (total + 1)


def _by_prediction(features):
    """[p, b, h, w, c], or [1, b, h, w, c] of features [b, h, w, c] that all predictions have."""
    return features[None] if features.ndim == 4 else features


def _masks(embeddings, features):
    """Mask logits float32 [b, n, h, w] of embeddings [b, n, c] on features [b, h, w, c]."""
    return jnp.einsum("bnc,bhwc->bnhw", embeddings, features, precision=EXACT)


def _fold(key, *numbers):
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
