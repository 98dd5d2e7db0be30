"""Cityscapes, PSP head (PSPNet) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/cityscapes_psp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_psp_r50

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. The variants _769 take
crops of 769x769, align corners and are evaluated by windows. Equalizers are explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          pspnet_r50-d8_4xb2-40k_cityscapes-512x1024           77.85 / 79.18
    r50          pspnet_r50-d8_4xb2-80k_cityscapes-512x1024           78.55 / 79.79
    r101         pspnet_r101-d8_4xb2-40k_cityscapes-512x1024          78.34 / 79.74
    r101         pspnet_r101-d8_4xb2-80k_cityscapes-512x1024          79.76 / 81.01
    r50_769      pspnet_r50-d8_4xb2-40k_cityscapes-769x769            78.26 / 79.88
    r50_769      pspnet_r50-d8_4xb2-80k_cityscapes-769x769            79.59 / 80.69
    r101_769     pspnet_r101-d8_4xb2-40k_cityscapes-769x769           79.08 / 80.28
    r101_769     pspnet_r101-d8_4xb2-80k_cityscapes-769x769           79.77 / 81.06
    mobilenetv2  mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024  70.23

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2", "r50_769", "r101_769")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.cityscapes(crop), name, "psp")
