"""EfficientNet, by the names of timm and torchvision."""

from se_jax.importers.rules import CONV, NORM, Rule, Table

HEAD = "1x1 convolution in front of the ImageNet classifier"
CLASSIFIER = "ImageNet classifier"
STEM = "conv_stem"
CONVOLUTIONS = ("conv_pw", "conv_dw", "conv_pwl", "conv_exp", "conv", "se.conv_reduce", "se.conv_expand")


def timm(encoder) -> Table:
    """timm's names, which are ours; its fused blocks are EdgeResidual and, without an expansion, ConvBnAct."""
    rules = [Rule("conv_stem", STEM, CONV), Rule("bn1", "bn1", NORM)]
    for name in CONVOLUTIONS:
        rules.append(Rule(f"blocks.{{}}.{{}}.{name}", f"blocks_{{}}_{{}}/{name.replace('.', '/')}", CONV))
    rules.append(Rule("blocks.{}.{}.bn{}", "blocks_{}_{}/bn{}", NORM))
    return Table(tuple(rules), {r"(conv_head|bn2)\..*": HEAD, r"classifier\..*": CLASSIFIER}, stem=STEM)


def torchvision(encoder) -> Table | None:
    """torchvision's names: stages count from 1, and a block is a sequence. It has no fused form of these networks."""
    if encoder.fused:
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
