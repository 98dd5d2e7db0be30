"""PASCAL VOC 2012, UPer head (UPerNet) on a ResNet-50 or ResNet-101.

python -m se_jax.main --config=configs/voc2012_uper.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_uper_r50

16 crops of 512x512 a step, 40k steps; --config.num_steps=20000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50   upernet_r50_4xb4-20k_voc12aug-512x512   74.82 / 76.35
    r50   upernet_r50_4xb4-40k_voc12aug-512x512   75.92 / 77.44
    r101  upernet_r101_4xb4-20k_voc12aug-512x512  77.10 / 78.29
    r101  upernet_r101_4xb4-40k_voc12aug-512x512  77.43 / 78.56

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.voc2012(), name, "uper")
