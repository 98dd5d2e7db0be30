"""PASCAL VOC 2012, FCN head on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/voc2012_fcn.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_fcn_r50

16 crops of 512x512 a step, 40k steps; --config.num_steps=20000 is the other published schedule. The head resizes
nothing before it fuses, so the network is the plain one; --config.model.equalizer.mode=explicit
--config.model.equalizer.sites=concat_input equalizes its one concatenation.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50   fcn_r50-d8_4xb4-20k_voc12aug-512x512   67.08 / 69.94
    r50   fcn_r50-d8_4xb4-40k_voc12aug-512x512   66.97 / 69.04
    r101  fcn_r101-d8_4xb4-20k_voc12aug-512x512  71.16 / 73.57
    r101  fcn_r101-d8_4xb4-40k_voc12aug-512x512  69.91 / 72.38

No row of MobileNetV2 is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.voc2012(), name, "fcn")
