"""Losses: one a file, on `se_jax.losses.base`; `build` makes those of a run from config.loss and config.losses."""

import dataclasses
from collections.abc import Mapping

from se_jax.config.lookup import lookup
from se_jax.config.types import ConfigDict
from se_jax.losses.base import IGNORE, Loss
from se_jax.losses.codes import SquaredErrorOfCodes
from se_jax.losses.focal import BinaryCrossEntropy, Focal
from se_jax.losses.lovasz import LovaszSoftmax
from se_jax.losses.masks import SetLoss
from se_jax.losses.pixel_cross_entropy import PixelCrossEntropy
from se_jax.losses.region import Dice, Tversky

__all__ = [
    "IGNORE",
    "LOSSES",
    "TERMS",
    "BinaryCrossEntropy",
    "Dice",
    "Focal",
    "Loss",
    "LovaszSoftmax",
    "PixelCrossEntropy",
    "SetLoss",
    "SquaredErrorOfCodes",
    "Tversky",
    "build",
]


def _cross_entropy(config, model) -> Loss:
    if hasattr(getattr(model, "decoder", None), "queries"):  # a network of one's own may have no decoder
        raise ValueError(
            f"loss.name is 'cross_entropy', but {type(model.decoder).__name__} gives masks of queries and no logits; "
            "set loss.name='masks'"
        )
    return PixelCrossEntropy(
        align_corners=model.align_corners,
        average=config.average,
        class_weights=_class_weights(config, model),
        min_kept=config.ohem.min_kept,
        threshold=config.ohem.threshold,
        label_smoothing=config.label_smoothing,
    )


def _codes(config, model) -> Loss:
    _pixels_are_equal(config)
    if not hasattr(model.decoder, "codes"):
        raise ValueError(f"loss.name is 'codes', but {type(model.decoder).__name__} has no codes")
    return SquaredErrorOfCodes(ratio=model.decoder.ratio)


def _masks(config, model) -> Loss:
    _pixels_are_equal(config)
    if not hasattr(model.decoder, "queries"):
        raise ValueError(f"loss.name is 'masks', but {type(model.decoder).__name__} has no queries")
    queries, options = model.decoder.queries, config.masks
    targets = min(model.num_classes, queries) if options.targets is None else options.targets
    return SetLoss(
        num_classes=model.num_classes,
        queries=queries,
        targets=targets,
        points=options.points,
        no_object=options.no_object,
        pad_to=model.decoder.pad_to,
    )


def _pixels_are_equal(config) -> None:
    if config.class_weights or config.ohem.min_kept or config.label_smoothing:
        raise ValueError(
            "loss.class_weights, loss.ohem and loss.label_smoothing belong to the cross entropy; "
            f"loss.name='{config.name}' has none"
        )


LOSSES = {
    "cross_entropy": _cross_entropy,
    "codes": _codes,
    "masks": _masks,
}  # loss.name -> what makes the decoder's loss
# config.losses' names -> losses of the decoder's logits, whose fields are their options
TERMS = {
    "binary_cross_entropy": BinaryCrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "lovasz": LovaszSoftmax,
    "tversky": Tversky,
}


def build(config, model, terms=None) -> tuple[Loss, ...]:
    """The losses of a run: the decoder's and, where the network has an auxiliary head, that head's.

    Args:
      config: config.loss. Its name may also be 'package.module:function', which makes a Loss of (config, model).
      model: the Segmenter.
      terms: config.losses, whose weighted sum then takes the place of the decoder's loss: name -> weight, or -> options
        with `weight` among them. 'cross_entropy' stands for what config.loss describes.

    Raises:
      ValueError: an option cannot be; names it.
    """
    losses = [_term(name, given, config, model) for name, given in (terms or {"cross_entropy": 1.0}).items()]
    if model.auxiliary is not None:
        losses.append(
            PixelCrossEntropy(
                output="auxiliary",
                term="loss_auxiliary",
                weight=config.auxiliary_weight,
                align_corners=model.align_corners,
                average=config.average,
                class_weights=_class_weights(config, model),
            )
        )
    return tuple(losses)


def _term(name: str, given, config, model) -> Loss:
    """One loss of config.losses; its term is called 'loss_<name>', the decoder's own 'loss_decoder'."""
    options = dict(given) if isinstance(given, Mapping | ConfigDict) else {"weight": float(given)}
    if name == "cross_entropy":
        made = lookup("loss.name", config.name, LOSSES)(config, model)
        return dataclasses.replace(made, **options)
    kind = lookup(f"losses.{name}.name", options.pop("name", name), TERMS)
    shared = {"term": f"loss_{name}", "align_corners": model.align_corners, "average": config.average}
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in shared.items() if key in fields} | options)


def _class_weights(config, model) -> tuple[float, ...]:
    if config.class_weights and len(config.class_weights) != model.num_classes:
        raise ValueError(
            f"loss.class_weights has {len(config.class_weights)} values; expected one for each of the "
            f"{model.num_classes} classes (model.num_classes), or ()"
        )
    return tuple(config.class_weights)
