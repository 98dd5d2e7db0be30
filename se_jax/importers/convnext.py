"""ConvNeXt by the names of mmsegmentation (mmpretrain's), timm, the original repository, and torchvision."""

from se_jax.importers.rules import CONV, LAYER_NORM, LINEAR, Leaf, Rule, Table, parameter

_SKIPPED = {
    r"norm\.(weight|bias)": "norm of the ImageNet classifier",
    r"(head|classifier)\..*": "ImageNet classifier",
}
_BLOCKS = "stages_{}_{}"
_GAMMA = parameter("gamma", "gamma")
_LAYER_SCALE = Leaf("params", "gamma", ("layer_scale",), lambda t: t[:, 0, 0], lambda a: (a[:, None, None],))


def mmseg(encoder) -> Table:
    """mmpretrain's names; its ImageNet checkpoints have the last of the output norms."""
    return _original(("depthwise_conv", "norm", "pointwise_conv1", "pointwise_conv2"))


def official(encoder) -> Table:
    """Names of the original repository, classifiers and segmentation networks."""
    return _original(("dwconv", "norm", "pwconv1", "pwconv2"))


def timm(encoder) -> Table:
    """The convolution in front of a stage belongs to the stage."""
    rules = (
        *_stem("stem"),
        *_downsample("stages.{}.downsample", "{}"),
        *_block("stages.{}.blocks.{}", _BLOCKS, ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"), _GAMMA),
    )
    return _table(rules)


def torchvision(encoder) -> Table:
    """One sequence: the stem, then stages and downsamplings in turn; layer scales are [c, 1, 1]."""
    rules = [*_stem("features.0")]
    for stage in range(4):
        rules += _downsample(f"features.{2 * stage}", str(stage)) if stage else ()
        names = ("block.0", "block.2", "block.3", "block.5")
        rules += _block(f"features.{2 * stage + 1}.{{}}", f"stages_{stage}_{{}}", names, _LAYER_SCALE)
    return _table(tuple(rules))


def _original(names: tuple[str, ...]) -> Table:
    """Stem and downsamplings in a list of their own."""
    rules = (
        *_stem("downsample_layers.0"),
        *_downsample("downsample_layers.{}", "{}"),
        *_block("stages.{}.{}", _BLOCKS, names, _GAMMA),
    )
    return _table(rules)


def _table(rules: tuple[Rule, ...]) -> Table:
    """Adds the norms at the four outputs, which segmentation networks have and ImageNet checkpoints lack."""
    norms = Rule("norm{}", "norm{}", LAYER_NORM)
    return Table((*rules, norms), _SKIPPED, optional=(r"norm\d",), stem="downsample_layers_0_0")


def _stem(theirs: str) -> tuple[Rule, ...]:
    return Rule(f"{theirs}.0", "downsample_layers_0_0", CONV), Rule(f"{theirs}.1", "downsample_layers_0_1", LAYER_NORM)


def _downsample(theirs: str, stage: str) -> tuple[Rule, ...]:
    """Norm, then convolution: the other way round than in the stem, whose rules come first."""
    ours = f"downsample_layers_{stage}"
    return Rule(f"{theirs}.0", f"{ours}_0", LAYER_NORM), Rule(f"{theirs}.1", f"{ours}_1", CONV)


def _block(theirs: str, ours: str, names: tuple[str, ...], gamma: Leaf) -> tuple[Rule, ...]:
    depthwise, norm, pointwise1, pointwise2 = (f"{theirs}.{name}" for name in names)
    return (
        Rule(theirs, ours, (gamma,)),
        Rule(depthwise, f"{ours}/depthwise_conv", CONV),
        Rule(norm, f"{ours}/norm", LAYER_NORM),
        Rule(pointwise1, f"{ours}/pointwise_conv1", LINEAR),
        Rule(pointwise2, f"{ours}/pointwise_conv2", LINEAR),
    )
