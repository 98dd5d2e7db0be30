"""PASCAL VOC 2012, PSP head (PSPNet) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/voc2012_psp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_psp_r50

16 crops of 512x512 a step, 40k steps; --config.num_steps=20000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50   pspnet_r50-d8_4xb4-20k_voc12aug-512x512   76.78 / 77.61
    r50   pspnet_r50-d8_4xb4-40k_voc12aug-512x512   77.29 / 78.48
    r101  pspnet_r101-d8_4xb4-20k_voc12aug-512x512  78.47 / 79.25
    r101  pspnet_r101-d8_4xb4-40k_voc12aug-512x512  78.52 / 79.57

No row of MobileNetV2 is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known. Tried on a CPU with a ResNet-18 of width 8:
four steps on crops of 128x128 out of ten real images, then evaluation at full size, whole and by windows.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.voc2012(), name, "psp")
