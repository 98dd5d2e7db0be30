"""Cityscapes, SepASPP head (DeepLabV3+) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/cityscapes_sep_aspp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_sep_aspp_r50

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. The variants _769 take
crops of 769x769, align corners and are evaluated by windows. Equalizers are explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024           79.61 / 81.01
    r50          deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024           80.09 / 81.13
    r101         deeplabv3plus_r101-d8_4xb2-40k_cityscapes-512x1024          80.21 / 81.82
    r101         deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024          80.97 / 82.03
    r50_769      deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769            78.97 / 80.46
    r50_769      deeplabv3plus_r50-d8_4xb2-80k_cityscapes-769x769            79.83 / 81.48
    r101_769     deeplabv3plus_r101-d8_4xb2-40k_cityscapes-769x769           79.46 / 80.50
    r101_769     deeplabv3plus_r101-d8_4xb2-80k_cityscapes-769x769           80.65 / 81.47
    mobilenetv2  mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024  75.20

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2", "r50_769", "r101_769")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.cityscapes(crop), name, "sep_aspp")
