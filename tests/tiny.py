"""Networks small enough for two cores, one for every head and one for every encoder, as the tests use them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax.equalizer.sites import find_sites, identity_statistics
from se_jax.models import (
    ASPPHead,
    ConvNeXt,
    DUpsamplingHead,
    EfficientNet,
    EoMTHead,
    ESegHead,
    FCNHead,
    FPNHead,
    HRNet,
    LinearHead,
    LinkNetHead,
    Mask2FormerHead,
    MixVisionTransformer,
    MobileNetV2,
    PSPHead,
    ResNet,
    SegformerHead,
    Segmenter,
    SepASPPHead,
    Swin,
    Twins,
    UNetHead,
    UPerHead,
    ViT,
    VWFormerHead,
    VWMask2FormerHead,
    Xception,
)

# one block a stage: half of what ResNet-18 takes to trace, in the many tests whose subject is not the encoder
ENCODER = {"depth": 10, "variant": "v1b", "width": 4}

CLASSES = 5
QUERIES = {"channels": 32, "mask_channels": 64, "queries": 4, "layers": 1, "heads": 2, "hidden": 8}
PIXELS = {"pixel_layers": 1, "pixel_heads": 2, "pixel_points": 2, "pixel_hidden": 8}
# name -> (head, output stride of the encoder); widths and dilations fit maps of 9 x 9 pixels
HEADS = {
    "aspp": (ASPPHead(CLASSES, channels=8, dilations=(1, 2, 4, 6)), 8),
    "dupsampling": (
        DUpsamplingHead(CLASSES, channels=16, codes=12, low_level=(0, 2), low_channels=4, dilations=(1, 2, 4, 6)),
        16,
    ),
    "eseg": (ESegHead(CLASSES, channels=8, repeats=1, top_level=7), 32),
    "psp": (PSPHead(CLASSES, channels=8), 8),
    "sep_aspp": (SepASPPHead(CLASSES, channels=8, dilations=(1, 2, 4, 6), c1_channels=4), 8),
    "segformer": (SegformerHead(CLASSES, channels=8), 32),
    "unet": (UNetHead(CLASSES, channels=64), 32),
    "fpn": (FPNHead(CLASSES, channels=8, segmentation_channels=32), 32),
    "linknet": (LinkNetHead(CLASSES, channels=4), 32),
    "uper": (UPerHead(CLASSES, channels=8), 32),
    "vwformer": (VWFormerHead(CLASSES, channels=64, c1_channels=4), 32),
    "mask2former": (Mask2FormerHead(CLASSES, **QUERIES, **PIXELS), 32),
    "vw_mask2former": (
        VWMask2FormerHead(CLASSES, **QUERIES, **PIXELS, variant="b", vw_channels=64, vw_heads=2, low_channels=4),
        32,
    ),
    "fcn": (FCNHead(CLASSES, channels=12, num_convs=1, kernel_size=1, concat_input=False, resize_concat=True), 8),
}
# likewise heads of which no site is equalized by default
PLAIN_HEADS = {
    "eomt": (EoMTHead(CLASSES, queries=4, blocks=1), 4),
    "linear": (LinearHead(CLASSES), 32),
}
# every encoder but ResNet, which comes with the heads
ENCODERS = {
    "convnext": ConvNeXt(widths=(4, 8, 8, 8), depths=(1, 1, 1, 1)),
    "efficientnet": EfficientNet(width=0.1, depth=0.1),
    "efficientnet_fused": EfficientNet(width=0.1, depth=0.1, fused=True),
    "hrnet": HRNet(width=4, layer1_blocks=1, layer1_width=4, modules=(1, 1, 1), blocks=1),
    "mit": MixVisionTransformer(width=4, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2)),
    "mobilenetv2": MobileNetV2(width=0.1),
    "pcpvt": Twins("pcpvt_small", widths=(4, 8, 8, 8), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2)),
    "svt": Twins("svt_small", widths=(4, 8, 8, 8), depths=(1, 2, 1, 1), heads=(1, 2, 2, 2), window=3),
    "swin": Swin(width=4, depths=(1, 2, 1, 1), heads=(1, 2, 2, 2), window=3),
    "vit": ViT(width=16, depth=1, heads=2, patch=16, size=64, pyramid=True),
    "xception": Xception(entry=((4, 2), (8, 2), (8, 2)), middle=1, exit=((8, 8, 8), (8, 8, 8))),
}

# head -> width of its ResNet, where a quarter of 8 channels is too few
WIDTHS = {"linknet": 16}

# head -> sides of the images it is tested with, where it cannot take all; the first is trained and calibrated with
SIDES = {"eomt": (32, 24), "vit": (64, 96), "vwformer": (128, 64), "mask2former": (64, 96), "vw_mask2former": (128, 64)}


def sides(name: str) -> tuple[int, int]:
    """Sides of the square images that the network of that name is tested with."""
    return SIDES.get(name, (65, 64))


def network(name: str, mode: str = "none", auxiliary: bool = False, **equalizer) -> Segmenter:
    """The head of that name on a small ResNet, or the encoder of that name under a SegFormer head."""
    if name in ENCODERS:
        encoder, decoder = ENCODERS[name], HEADS["segformer"][0]
    else:
        decoder, output_stride = (HEADS | PLAIN_HEADS)[name]
        if name == "eomt":
            encoder, auxiliary = ViT("dinov2_small_reg", width=16, depth=2, heads=2, patch=4, grid=(4, 4)), False
        else:
            encoder = ResNet(**ENCODER | {"width": WIDTHS.get(name, 8)}, output_stride=output_stride)
    extra = FCNHead(CLASSES, channels=4, in_index=2, num_convs=1, concat_input=False) if auxiliary else None
    return Segmenter(encoder, decoder, extra).with_equalizer(mode=mode, **equalizer)


def result(outputs):
    """What tests compare of a network's outputs: the logits or, of queries, the features of their masks.

    What queries predict depends on thresholds: a pixel that falls on the other side changes all that follows.
    """
    return outputs["logits" if "logits" in outputs else "mask_features"]


def images(batch: int = 2, size: int = 65, seed: int = 0) -> np.ndarray:
    """uint8 noise, smooth enough that deeper levels see something."""
    noise = np.random.default_rng(seed).normal(size=(batch, size, size, 3))
    smooth = noise.cumsum(1).cumsum(2)
    return np.uint8(127.5 + 127 * np.sin(smooth / 8 + noise))


def init(model: Segmenter, size: int = 65, seed: int = 0):
    """Variables of `model`, filled; those of an explicit network include its statistics."""
    return fill(shapes(model, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)), seed)


def shapes(model: nn.Module, *inputs):
    """Variables of `model` without values, with the statistics that calibration gives an explicit network."""
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    equalizer = getattr(getattr(model, "decoder", model), "equalizer", None)
    if equalizer is None or equalizer.mode != "explicit":
        return variables
    return {**variables, "equalizer": identity_statistics(find_sites(model, *inputs))}


def fill(shapes, seed: int = 0):
    """Variables of these shapes, every array drawn away from its neutral start so that a mistake with any shows."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("std", "var", "scale"):
            # residual blocks add up: a smaller scale keeps the deepest features near 1
            return (0.5 if name == "scale" else 1.0) * np.exp(rng.normal(0, 0.5, leaf.shape)).astype(leaf.dtype)
        spread = 0.5 if name in ("mean", "bias") else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return rng.normal(0, spread, leaf.shape).astype(leaf.dtype)

    return jax.device_put(jax.tree.map_with_path(draw, shapes))
