"""Cityscapes, FCN head on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/cityscapes_fcn.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_fcn_r50

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. The variants _769 take
crops of 769x769, align corners and are evaluated by windows. The head resizes nothing before it fuses, so the network
is the plain one; --config.model.equalizer.mode=explicit --config.model.equalizer.sites=concat_input equalizes its one
concatenation.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          fcn_r50-d8_4xb2-40k_cityscapes-512x1024           72.25 / 73.36
    r50          fcn_r50-d8_4xb2-80k_cityscapes-512x1024           73.61 / 74.24
    r101         fcn_r101-d8_4xb2-40k_cityscapes-512x1024          75.45 / 76.58
    r101         fcn_r101-d8_4xb2-80k_cityscapes-512x1024          75.13 / 75.94
    r50_769      fcn_r50-d8_4xb2-40k_cityscapes-769x769            71.47 / 72.54
    r50_769      fcn_r50-d8_4xb2-80k_cityscapes-769x769            72.64 / 73.32
    r101_769     fcn_r101-d8_4xb2-40k_cityscapes-769x769           73.93 / 75.14
    r101_769     fcn_r101-d8_4xb2-80k_cityscapes-769x769           75.52 / 76.61
    mobilenetv2  mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024  71.19 / 73.34

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2", "r50_769", "r101_769")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.cityscapes(crop), name, "fcn")
