"""Cityscapes, ASPP head (DeepLabV3) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/cityscapes_aspp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_aspp_r50

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. The variants _769 take
crops of 769x769, align corners and are evaluated by windows. Equalizers are explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024           79.09 / 80.45
    r50          deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024           79.32 / 80.57
    r101         deeplabv3_r101-d8_4xb2-40k_cityscapes-512x1024          77.12 / 79.61
    r101         deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024          80.20 / 81.21
    r50_769      deeplabv3_r50-d8_4xb2-40k_cityscapes-769x769            78.58 / 79.89
    r50_769      deeplabv3_r50-d8_4xb2-80k_cityscapes-769x769            79.89 / 81.06
    r101_769     deeplabv3_r101-d8_4xb2-40k_cityscapes-769x769           79.27 / 80.11
    r101_769     deeplabv3_r101-d8_4xb2-80k_cityscapes-769x769           79.67 / 80.81
    mobilenetv2  mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024  73.84

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known. Tried on a CPU with a ResNet-18 of width 8:
four steps on crops of 128x256 out of six real frames, then evaluation at full size, whole and by windows.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2", "r50_769", "r101_769")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.cityscapes(crop), name, "aspp")
