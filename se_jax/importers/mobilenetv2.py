"""MobileNetV2, by the names of mmsegmentation, torchvision and timm."""

from se_jax.importers.rules import Table, conv_block, conv_bn
from se_jax.models.encoders.mobilenetv2 import LAYERS

STEM = "conv1"
HEAD = "1x1 convolution to 1280 channels in front of the ImageNet classifier"
CLASSIFIER = "ImageNet classifier"


def mmseg(encoder) -> Table:
    """mmsegmentation's names, layer2.0.conv.1.bn; mmpretrain's classification networks have the same and conv2."""
    rules = (*conv_block("conv1", STEM), *conv_block("layer{}.{}.conv.{}", "layer{}_{}/conv_{}"))
    return Table(rules, {r"conv2\..*": HEAD}, stem=f"{STEM}/conv")


def torchvision(encoder) -> Table:
    """torchvision's names: blocks are numbered through, and a block's last convolution lies one level higher."""
    rules = list(conv_bn("features.0.0", "features.0.1", STEM))
    blocks = [(layer, index) for layer, (_, _, count) in enumerate(LAYERS, 1) for index in range(count)]
    for number, (layer, index) in enumerate(blocks, 1):
        theirs, ours = f"features.{number}.conv", f"layer{layer}_{index}"
        last = 1 if LAYERS[layer - 1][0] == 1 else 2  # no first convolution where the block does not expand
        rules += conv_bn(f"{theirs}.{last}", f"{theirs}.{last + 1}", f"{ours}/conv_{last}")
        rules += conv_bn(f"{theirs}.{{}}.0", f"{theirs}.{{}}.1", f"{ours}/conv_{{}}")
    skipped = {rf"features\.{len(blocks) + 1}\..*": HEAD, r"classifier\..*": CLASSIFIER}
    return Table(tuple(rules), skipped, stem=f"{STEM}/conv")


def timm(encoder) -> Table:
    """timm's names: blocks.1.0.conv_pwl; in the first block, which does not expand, conv_pw is the last convolution."""
    rules = list(conv_bn("conv_stem", "bn1", STEM))
    for layer, (expansion, _, _) in enumerate(LAYERS, 1):
        convolutions = ("conv_dw", "conv_pw") if expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        theirs = f"blocks.{layer - 1}.{{}}"
        for index, name in enumerate(convolutions):
            rules += conv_bn(f"{theirs}.{name}", f"{theirs}.bn{index + 1}", f"layer{layer}_{{}}/conv_{index}")
    skipped = {r"(conv_head|bn2)\..*": HEAD, r"classifier\..*": CLASSIFIER}
    return Table(tuple(rules), skipped, stem=f"{STEM}/conv")
