"""ADE20K, UPer head (UPerNet) on a ResNet-50 or ResNet-101.

python -m se_jax.main --config=configs/ade20k_uper.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_uper_r50

16 crops of 512x512 a step, 160k steps; --config.num_steps=80000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50   upernet_r50_4xb4-80k_ade20k-512x512    40.70 / 41.81
    r50   upernet_r50_4xb4-160k_ade20k-512x512   42.05 / 42.78
    r101  upernet_r101_4xb4-80k_ade20k-512x512   42.91 / 43.96
    r101  upernet_r101_4xb4-160k_ade20k-512x512  43.82 / 44.85

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known. Tried on a CPU with a ResNet-18 of width 8:
four steps on crops of 128x128 out of seven real images, then evaluation at full size, whole and by windows.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.ade20k(), name, "uper")
