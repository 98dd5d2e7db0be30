"""ResNet V1b, V1c and V1d, by the names of mmsegmentation, torchvision (V1b only), timm (resnet50, 50c and 50d) and
detectron2 (V1b only)."""

from se_jax.importers.rules import Table, conv_bn

_IMAGENET_CLASSIFIER = {r"fc\.(weight|bias)": "ImageNet classifier"}


def mmseg(encoder) -> Table:
    """Three stem convolutions in one sequence with their norms and ReLUs; V1b has one, outside of it."""
    stem = conv_bn("conv1", "bn1", "stem_0")
    if encoder.variant != "v1b":
        stem = [rule for i in range(3) for rule in conv_bn(f"stem.{3 * i}", f"stem.{3 * i + 1}", f"stem_{i}")]
    return _table(encoder, stem)


def torchvision(encoder) -> Table | None:
    """mmsegmentation's names; V1b is all that torchvision has. segmentation_models_pytorch's are the same."""
    return mmseg(encoder) if encoder.variant == "v1b" else None


def timm(encoder) -> Table:
    """Two stem convolutions in the sequence `conv1` with their norms; the third's norm is `bn1`."""
    stem = conv_bn("conv1", "bn1", "stem_0")
    if encoder.variant != "v1b":
        stem = conv_bn("conv1.0", "conv1.1", "stem_0") + conv_bn("conv1.3", "conv1.4", "stem_1")
        stem += conv_bn("conv1.6", "bn1", "stem_2")
    return _table(encoder, stem)


def detectron2(encoder) -> Table | None:
    """Every norm is a part of its convolution; stages are counted from 2."""
    if encoder.variant != "v1b":
        return None
    rules = [*conv_bn("stem.conv1", "stem.conv1.norm", "stem_0")]
    for stage in range(1, 5):
        theirs, ours = f"res{stage + 1}.{{}}.", f"layer{stage}_{{}}/"
        rules += conv_bn(theirs + "conv{}", theirs + "conv{}.norm", ours + "conv{}")
        rules += conv_bn(theirs + "shortcut", theirs + "shortcut.norm", ours + "downsample")
    return Table(tuple(rules), stem="stem_0/conv")


def _table(encoder, stem) -> Table:
    average = 1 if encoder.variant == "v1d" else 0  # V1d's shortcut has an average pool in front
    return Table(
        rules=(
            *stem,
            *conv_bn("layer{}.{}.conv{}", "layer{}.{}.bn{}", "layer{}_{}/conv{}"),
            *conv_bn(
                f"layer{{}}.{{}}.downsample.{average}",
                f"layer{{}}.{{}}.downsample.{average + 1}",
                "layer{}_{}/downsample",
            ),
        ),
        skipped=_IMAGENET_CLASSIFIER,
        stem="stem_0/conv",
    )
