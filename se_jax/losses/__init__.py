"""Losses: one a file, on `se_jax.losses.base`; `build` makes those of a run from config.loss."""

from se_jax.config.lookup import lookup
from se_jax.losses.base import IGNORE, Loss
from se_jax.losses.codes import SquaredErrorOfCodes
from se_jax.losses.masks import SetLoss
from se_jax.losses.pixel_cross_entropy import PixelCrossEntropy

__all__ = ["IGNORE", "LOSSES", "Loss", "PixelCrossEntropy", "SetLoss", "SquaredErrorOfCodes", "build"]


def _cross_entropy(config, model) -> Loss:
    return PixelCrossEntropy(
        align_corners=model.align_corners,
        average=config.average,
        class_weights=_class_weights(config, model),
        min_kept=config.ohem.min_kept,
        threshold=config.ohem.threshold,
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
    )


def _pixels_are_equal(config) -> None:
    if config.class_weights or config.ohem.min_kept:
        raise ValueError(
            f"loss.class_weights and loss.ohem belong to the cross entropy; loss.name='{config.name}' has none"
        )


LOSSES = {
    "cross_entropy": _cross_entropy,
    "codes": _codes,
    "masks": _masks,
}  # loss.name -> what makes the decoder's loss


def build(config, model) -> tuple[Loss, ...]:
    """The losses of a run: the decoder's and, where the network has an auxiliary head, that head's.

    Args:
      config: config.loss. Its name may also be 'package.module:function', which makes a Loss of (config, model).
      model: the Segmenter.

    Raises:
      ValueError: an option cannot be; names it.
    """
    losses = [lookup("loss.name", config.name, LOSSES)(config, model)]
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


def _class_weights(config, model) -> tuple[float, ...]:
    if config.class_weights and len(config.class_weights) != model.num_classes:
        raise ValueError(
            f"loss.class_weights has {len(config.class_weights)} values; expected one for each of the "
            f"{model.num_classes} classes (model.num_classes), or ()"
        )
    return tuple(config.class_weights)
