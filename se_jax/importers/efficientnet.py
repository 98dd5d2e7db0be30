"""EfficientNet, by the names of timm, torchvision and, of EfficientNet-Lite, efficientnet-lite-pytorch."""

from se_jax.config.normalization import IMAGENET, INCEPTION, LITE
from se_jax.importers.rules import CONV, NORM, Rule, Table

HEAD = "1x1 convolution in front of the ImageNet classifier"
CLASSIFIER = "ImageNet classifier"
STEM = "conv_stem"
CONVOLUTIONS = ("conv_pw", "conv_dw", "conv_pwl", "conv_exp", "conv", "se.conv_reduce", "se.conv_expand")


def timm(encoder) -> Table:
    """timm's names, which are ours; its fused blocks are EdgeResidual and, without an expansion, ConvBnAct.

    Lite's weights are fed -1 to 1 there; so are AdvProp's (`ap_in1k`) and some others of B0 to B7, whose names say no
    more of it: for those model.normalization is to be given.
    """
    rules = [Rule("conv_stem", STEM, CONV), Rule("bn1", "bn1", NORM)]
    for name in CONVOLUTIONS:
        rules.append(Rule(f"blocks.{{}}.{{}}.{name}", f"blocks_{{}}_{{}}/{name.replace('.', '/')}", CONV))
    rules.append(Rule("blocks.{}.{}.bn{}", "blocks_{}_{}/bn{}", NORM))
    skipped = {r"(conv_head|bn2)\..*": HEAD, r"classifier\..*": CLASSIFIER}
    return Table(tuple(rules), skipped, stem=STEM, normalization=INCEPTION if encoder.lite else IMAGENET)


def lite_pytorch(encoder) -> Table | None:
    """efficientnet-lite-pytorch's names: blocks are numbered through all stages, norms from 0 where a block expands."""
    if not encoder.lite:
        return None
    rules = [Rule("_conv_stem", STEM, CONV), Rule("_bn0", "bn1", NORM)]
    blocks = ((i, j, stage) for i, stage in enumerate(encoder.stages) for j in range(stage.blocks))
    for number, (i, j, stage) in enumerate(blocks):
        layers = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        ours = ["conv_pw", "conv_dw", "conv_pwl"]
        if stage.expansion == 1:
            layers, ours = layers[1:], ["conv_dw", "conv_pw"]
        for index, ((convolution, norm), layer) in enumerate(zip(layers, ours, strict=True), 1):
            rules.append(Rule(f"_blocks.{number}.{convolution}", f"blocks_{i}_{j}/{layer}", CONV))
            rules.append(Rule(f"_blocks.{number}.{norm}", f"blocks_{i}_{j}/bn{index}", NORM))
    skipped = {r"(_conv_head|_bn1)\..*": HEAD, r"_fc\..*": CLASSIFIER}
    return Table(tuple(rules), skipped, stem=STEM, normalization=LITE)


def torchvision(encoder) -> Table | None:
    """torchvision's names: stages count from 1, and a block is a sequence. It has no fused form, and no Lite."""
    if encoder.fused or encoder.lite:
        return None
    rules = [Rule("features.0.0", STEM, CONV), Rule("features.0.1", "bn1", NORM)]
    for i, stage in enumerate(encoder.stages):
        layers = ["conv_dw", "se", "conv_pw"] if stage.expansion == 1 else ["conv_pw", "conv_dw", "se", "conv_pwl"]
        norms = iter(("bn1", "bn2", "bn3"))
        for index, layer in enumerate(layers):
            theirs, ours = f"features.{i + 1}.{{}}.block.{index}", f"blocks_{i}_{{}}"
            if layer == "se":
                rules.append(Rule(f"{theirs}.fc1", f"{ours}/se/conv_reduce", CONV))
                rules.append(Rule(f"{theirs}.fc2", f"{ours}/se/conv_expand", CONV))
            else:
                rules.append(Rule(f"{theirs}.0", f"{ours}/{layer}", CONV))
                rules.append(Rule(f"{theirs}.1", f"{ours}/{next(norms)}", NORM))
    head = rf"features\.{len(encoder.stages) + 1}\..*"
    return Table(tuple(rules), {head: HEAD, r"classifier\..*": CLASSIFIER}, stem=STEM)
