"""Networks from a config: `build(config.model)`."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from se_jax.config.check import check, check_types
from se_jax.config.lookup import lookup
from se_jax.config.normalization import IMAGENET, Normalization
from se_jax.equalizer.fusion import Equalizer
from se_jax.models import decoders, encoders
from se_jax.models.segmenter import Segmenter

ENCODERS = {
    "convnext": encoders.ConvNeXt,
    "efficientnet": encoders.EfficientNet,
    "hrnet": encoders.HRNet,
    "mit": encoders.MixVisionTransformer,
    "mobilenetv2": encoders.MobileNetV2,
    "resnet": encoders.ResNet,
    "swin": encoders.Swin,
    "twins": encoders.Twins,
    "vit": encoders.ViT,
    "xception": encoders.Xception,
}
DECODERS = {
    "aspp": decoders.ASPPHead,
    "dupsampling": decoders.DUpsamplingHead,
    "eomt": decoders.EoMTHead,
    "eseg": decoders.ESegHead,
    "fcn": decoders.FCNHead,
    "fpn": decoders.FPNHead,
    "linknet": decoders.LinkNetHead,
    "linear": decoders.LinearHead,
    "mask2former": decoders.Mask2FormerHead,
    "psp": decoders.PSPHead,
    "segformer": decoders.SegformerHead,
    "sep_aspp": decoders.SepASPPHead,
    "unet": decoders.UNetHead,
    "uper": decoders.UPerHead,
    "vw_mask2former": decoders.VWMask2FormerHead,
    "vwformer": decoders.VWFormerHead,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config) -> Segmenter:
    """The network of `config.model` (see se_jax/config/options.py for its keys).

    An encoder or decoder of somebody else's is named by where it can be imported, 'package.module:Class'; an encoder
    takes the fields dtype and remat, a decoder those of `se_jax.models.decoders.base.Decoder`.

    Raises:
      ValueError: for an unknown encoder, decoder, dtype, or option of one of them; names what is known.
    """
    check(config, "model")
    dtype = lookup("model.dtype", config.dtype, DTYPES)
    shared = {"num_classes": config.num_classes, "align_corners": config.align_corners, "dtype": dtype}
    equalizer = Equalizer(config.equalizer.mode, config.equalizer.statistics, _sites(config.equalizer.sites))
    encoder = _construct("model.encoder", config.encoder, ENCODERS, dtype=dtype, remat=config.remat)
    decoder = _construct("model.decoder", config.decoder, DECODERS, equalizer=equalizer, **shared)
    auxiliary = None
    if config.get("auxiliary"):
        options = {"name": "fcn", "num_convs": 1, "concat_input": False, **config.auxiliary}
        auxiliary = _construct("model.auxiliary", options, {"fcn": decoders.FCNHead}, **shared)
    return Segmenter(encoder, decoder, auxiliary, _normalization(config.get("normalization")))


def _normalization(given) -> Normalization:
    """ImageNet's where the config names none: a network that starts from no weights."""
    mean, std = IMAGENET if given is None else given
    return tuple(mean), tuple(std)


def _sites(sites) -> tuple[str, ...] | None:
    """'all' -> None; 'ppm,fpn' or a sequence of names -> their tuple."""
    names = tuple(name.strip() for name in sites.split(",")) if isinstance(sites, str) else tuple(sites)
    return None if names == ("all",) else names


def _construct(option: str, config, constructors, **shared) -> Any:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in dict(config).items()}
    constructor = lookup(f"{option}.name", options.pop("name", None), constructors)
    fields = {field.name for field in dataclasses.fields(constructor)} - {"parent", "name"} - set(shared)
    if unknown := set(options) - fields:
        raise ValueError(
            f"{option} has unknown options {', '.join(sorted(unknown))}; "
            f"{constructor.__name__} takes {', '.join(sorted(fields))}"
        )
    check_types(option, constructor, options)
    return constructor(**options, **shared)
