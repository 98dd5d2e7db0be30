"""HRNet, by the names of mmsegmentation and of timm, which are the same and those of the official checkpoints."""

from se_jax.importers.rules import Table, conv_bn

RULES = (
    *conv_bn("conv{}", "bn{}", "conv{}"),
    *conv_bn("layer1.{}.conv{}", "layer1.{}.bn{}", "layer1_{}/conv{}"),
    *conv_bn("layer1.{}.downsample.0", "layer1.{}.downsample.1", "layer1_{}/downsample"),
    *conv_bn("transition1.0.0", "transition1.0.1", "transition1_0"),  # no new branch: one level less
    *conv_bn("transition{}.{}.0.0", "transition{}.{}.0.1", "transition{}_{}"),
    *conv_bn("stage{}.{}.branches.{}.{}.conv{}", "stage{}.{}.branches.{}.{}.bn{}", "stage{}_{}/branches_{}_{}/conv{}"),
    *conv_bn("stage{}.{}.fuse_layers.{}.{}.0", "stage{}.{}.fuse_layers.{}.{}.1", "stage{}_{}/fuse_layers_{}_{}"),
    *conv_bn(
        "stage{}.{}.fuse_layers.{}.{}.{}.0",
        "stage{}.{}.fuse_layers.{}.{}.{}.1",
        "stage{}_{}/fuse_layers_{}_{}_{}",
    ),
)
SKIPPED = {
    r"(incre_modules|downsamp_modules|final_layer)\..*": "layers that join the four maps for the ImageNet classifier",
    r"classifier\..*": "ImageNet classifier",
}


def mmseg(encoder) -> Table:
    """One table for all layouts; ImageNet checkpoints have a classifier's tensors besides."""
    return Table(RULES, SKIPPED, stem="conv1/conv")
