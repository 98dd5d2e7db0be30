"""Which layouts each family of networks can be read from and written to."""

from se_jax.importers import (
    convnext,
    efficientnet,
    eomt,
    heads,
    hrnet,
    mask2former,
    mit,
    mobilenetv2,
    resnet,
    smp,
    swin,
    twins,
    vit,
    xception,
)
from se_jax.importers.rules import Table
from se_jax.models import decoders, encoders

# encoder class -> layout -> function: encoder -> its table, or None if the layout has no such network
ENCODERS = {
    encoders.ResNet: {
        "mmseg": resnet.mmseg,
        "torchvision": resnet.torchvision,
        "timm": resnet.timm,
        "detectron2": resnet.detectron2,
        "smp": resnet.torchvision,
    },
    encoders.Swin: {
        "mmseg": swin.mmseg,
        "official": swin.official,
        "timm": swin.timm,
        "torchvision": swin.torchvision,
        "detectron2": swin.official,
        "transformers": swin.transformers,
        "transformers_modules": swin.transformers_modules,
    },
    encoders.ConvNeXt: {
        "mmseg": convnext.mmseg,
        "official": convnext.official,
        "timm": convnext.timm,
        "torchvision": convnext.torchvision,
    },
    encoders.Twins: {"mmseg": twins.mmseg, "timm": twins.timm},
    encoders.MixVisionTransformer: {"mmseg": mit.mmseg, "official": mit.official},
    encoders.MobileNetV2: {
        "mmseg": mobilenetv2.mmseg,
        "torchvision": mobilenetv2.torchvision,
        "timm": mobilenetv2.timm,
    },
    encoders.HRNet: {"mmseg": hrnet.mmseg, "timm": hrnet.mmseg},
    encoders.EfficientNet: {
        "timm": efficientnet.timm,
        "torchvision": efficientnet.torchvision,
        "lite_pytorch": efficientnet.lite_pytorch,
    },
    encoders.ViT: {
        "official": vit.official,
        "timm": vit.timm,
        "transformers": vit.transformers,
        "transformers_modules": vit.transformers_modules,
        "eomt": eomt.official_encoder,
        "eomt_transformers": eomt.transformers_encoder,
    },
    encoders.Xception: {"timm": xception.timm},
}
HEADS = tuple(getattr(decoders, name) for name in decoders.__all__)
# those of the heads that are not in mmsegmentation alone
QUERIES = {
    "mmseg": mask2former.mmseg,
    "detectron2": mask2former.detectron2,
    "transformers": mask2former.transformers,
    "transformers_modules": mask2former.transformers,
}
LAYOUTS = {
    decoders.EoMTHead: {"eomt": eomt.official, "eomt_transformers": eomt.transformers},
    decoders.Mask2FormerHead: QUERIES,
    # mmsegmentation has none of these: there they keep the names of segmentation_models_pytorch
    **{
        head: {"smp": make, "mmseg": make}
        for head, make in (
            (decoders.UNetHead, smp.unet),
            (decoders.LinkNetHead, smp.linknet),
            (decoders.FPNHead, smp.fpn),
        )
    },
    decoders.VWMask2FormerHead: {name: QUERIES[name] for name in ("mmseg", "detectron2")},
}


def tables_of(module) -> dict[str, Table]:
    """Layout -> table of an encoder or a head; only of the layouts that have such a network.

    Raises:
      TypeError: for a module of neither kind.
    """
    if type(module) in LAYOUTS:
        return {layout: make(module) for layout, make in LAYOUTS[type(module)].items()}
    if isinstance(module, HEADS):
        return {"mmseg": heads.mmseg(module)}
    if type(module) not in ENCODERS:
        raise TypeError(f"{type(module).__name__} has no import table; there are some for {_names()}")
    made = {layout: make(module) for layout, make in ENCODERS[type(module)].items()}
    return {layout: table for layout, table in made.items() if table is not None}


def _names() -> str:
    return ", ".join(cls.__name__ for cls in (*ENCODERS, *HEADS))
