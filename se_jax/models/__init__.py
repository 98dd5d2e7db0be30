"""Networks: `build(config.model)` makes one from a config; the classes below make one by hand.

model = Segmenter(ResNet(50), ASPPHead(num_classes=19))
variables = model.init(jax.random.key(0), images)
"""

import dataclasses
import fnmatch

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.decoders import (
    ASPPHead,
    DUpsamplingHead,
    ESegHead,
    FCNHead,
    PSPHead,
    SegformerHead,
    SepASPPHead,
    UPerHead,
    VWFormerHead,
)
from se_jax.models.encoders import (
    ConvNeXt,
    EfficientNet,
    HRNet,
    MixVisionTransformer,
    MobileNetV2,
    ResNet,
    Swin,
    Twins,
    Xception,
)
from se_jax.models.fusion import Equalizer
from se_jax.models.segmenter import Segmenter, normalize

__all__ = [
    "ASPPHead",
    "ConvNeXt",
    "DUpsamplingHead",
    "ESegHead",
    "EfficientNet",
    "Equalizer",
    "FCNHead",
    "HRNet",
    "MixVisionTransformer",
    "MobileNetV2",
    "PSPHead",
    "ResNet",
    "SegformerHead",
    "Segmenter",
    "SepASPPHead",
    "Swin",
    "Twins",
    "UPerHead",
    "VWFormerHead",
    "Xception",
    "build",
    "normalize",
]

ENCODERS = {
    "convnext": ConvNeXt,
    "efficientnet": EfficientNet,
    "hrnet": HRNet,
    "mit": MixVisionTransformer,
    "mobilenetv2": MobileNetV2,
    "resnet": ResNet,
    "swin": Swin,
    "twins": Twins,
    "xception": Xception,
}
DECODERS = {
    "aspp": ASPPHead,
    "dupsampling": DUpsamplingHead,
    "eseg": ESegHead,
    "fcn": FCNHead,
    "psp": PSPHead,
    "segformer": SegformerHead,
    "sep_aspp": SepASPPHead,
    "uper": UPerHead,
    "vwformer": VWFormerHead,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config) -> Segmenter:
    """The network of `config.model` (see configs/common.py for its keys).

    Raises:
      ValueError: for an unknown encoder, decoder, dtype, option of one of them, or fusion site; names what is known.
    """
    dtype = DTYPES[_known("model.dtype", config.dtype, DTYPES)]
    shared = {"num_classes": config.num_classes, "align_corners": config.align_corners, "dtype": dtype}
    equalizer = Equalizer(config.equalizer.mode, config.equalizer.statistics, _sites(config.equalizer.sites))
    encoder = _construct("model.encoder", config.encoder, ENCODERS, dtype=dtype, remat=config.remat)
    decoder = _construct("model.decoder", config.decoder, DECODERS, equalizer=equalizer, **shared)
    auxiliary = None
    if config.get("auxiliary"):
        options = {"name": "fcn", "num_convs": 1, "concat_input": False, **config.auxiliary}
        auxiliary = _construct("model.auxiliary", options, {"fcn": FCNHead}, **shared)
    model = Segmenter(encoder, decoder, auxiliary)
    _check_sites(model, equalizer, config.decoder["name"])
    return model


def _sites(sites) -> tuple[str, ...] | None:
    """'all' -> None; 'ppm,fpn' or a sequence of names -> their tuple."""
    names = tuple(name.strip() for name in sites.split(",")) if isinstance(sites, str) else tuple(sites)
    return None if names == ("all",) else names


def _check_sites(model: Segmenter, equalizer: Equalizer, decoder: str) -> None:
    if unknown := {name for name in equalizer.sites or () if not fnmatch.filter(model.sites, name)}:
        raise ValueError(
            f"equalizer.sites names {', '.join(sorted(unknown))}, which decoder '{decoder}' does not have; "
            f"its fusion sites: {', '.join(model.sites) or 'none'}"
        )
    if equalizer.mode != "none" and not model.equalized_sites:
        named = f"; name one of {', '.join(model.sites)} in equalizer.sites" if model.sites else ""
        raise ValueError(
            f"equalizer.mode is '{equalizer.mode}', but decoder '{decoder}' as configured resizes nothing before it "
            f"fuses, so no site is equalized by default{named}, or set equalizer.mode to 'none'"
        )


def _known(option: str, value, known) -> str:
    if value not in known:
        raise ValueError(f"{option} is {value!r}; expected one of {', '.join(known)}")
    return value


def _construct(option: str, config, constructors, **shared) -> nn.Module:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in dict(config).items()}
    constructor = constructors[_known(f"{option}.name", options.pop("name", None), constructors)]
    fields = {field.name for field in dataclasses.fields(constructor)} - {"parent", "name"} - set(shared)
    if unknown := set(options) - fields:
        raise ValueError(
            f"{option} has unknown options {', '.join(sorted(unknown))}; "
            f"{constructor.__name__} takes {', '.join(sorted(fields))}"
        )
    return constructor(**options, **shared)
