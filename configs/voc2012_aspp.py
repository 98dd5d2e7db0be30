"""PASCAL VOC 2012, ASPP head (DeepLabV3) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/voc2012_aspp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_aspp_r50

16 crops of 512x512 a step, 40k steps; --config.num_steps=20000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50   deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512   76.17 / 77.42
    r50   deeplabv3_r50-d8_4xb4-40k_voc12aug-512x512   77.68 / 78.78
    r101  deeplabv3_r101-d8_4xb4-20k_voc12aug-512x512  78.70 / 79.95
    r101  deeplabv3_r101-d8_4xb4-40k_voc12aug-512x512  77.92 / 79.18

No row of MobileNetV2 is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.voc2012(), name, "aspp")
