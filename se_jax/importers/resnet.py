"""ResNet V1b, V1c and V1d, by the names of mmsegmentation and torchvision."""

from se_jax.importers.rules import CONV, NORM, Rule

_BLOCK = r"layer(\d)\.(\d+)"

RULES = (
    Rule(r"conv1", "stem_0/conv", CONV),  # V1b
    Rule(r"bn1", "stem_0/bn", NORM),
    Rule(r"stem\.0", "stem_0/conv", CONV),  # V1c, V1d: convolution, norm and ReLU three times in one sequence
    Rule(r"stem\.1", "stem_0/bn", NORM),
    Rule(r"stem\.3", "stem_1/conv", CONV),
    Rule(r"stem\.4", "stem_1/bn", NORM),
    Rule(r"stem\.6", "stem_2/conv", CONV),
    Rule(r"stem\.7", "stem_2/bn", NORM),
    Rule(rf"{_BLOCK}\.conv(\d)", r"layer\1_\2/conv\3/conv", CONV),
    Rule(rf"{_BLOCK}\.bn(\d)", r"layer\1_\2/conv\3/bn", NORM),
    Rule(rf"{_BLOCK}\.downsample\.0", r"layer\1_\2/downsample/conv", CONV),
    Rule(rf"{_BLOCK}\.downsample\.1", r"layer\1_\2/downsample/bn", NORM),
    Rule(rf"{_BLOCK}\.downsample\.1", r"layer\1_\2/downsample/conv", CONV),  # V1d: an average pool comes first
    Rule(rf"{_BLOCK}\.downsample\.2", r"layer\1_\2/downsample/bn", NORM),
)
