"""ADE20K, SepASPP head (DeepLabV3+) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/ade20k_sep_aspp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_sep_aspp_r50

16 crops of 512x512 a step, 160k steps; --config.num_steps=80000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512            42.72 / 43.75
    r50          deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512           43.95 / 44.93
    r101         deeplabv3plus_r101-d8_4xb4-80k_ade20k-512x512           44.60 / 46.06
    r101         deeplabv3plus_r101-d8_4xb4-160k_ade20k-512x512          45.47 / 46.35
    mobilenetv2  mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512  34.02

mmsegmentation files the 80k row of ResNet-101 under the name of its 160k config.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.ade20k(), name, "sep_aspp")
