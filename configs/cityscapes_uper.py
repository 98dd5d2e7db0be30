"""Cityscapes, UPer head (UPerNet) on a ResNet-50 or ResNet-101.

python -m se_jax.main --config=configs/cityscapes_uper.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_uper_r50

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. The variants _769 take
crops of 769x769, align corners and are evaluated by windows. Equalizers are explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50       upernet_r50_4xb2-40k_cityscapes-512x1024   77.10 / 78.37
    r50       upernet_r50_4xb2-80k_cityscapes-512x1024   78.19 / 79.19
    r101      upernet_r101_4xb2-40k_cityscapes-512x1024  78.69 / 80.11
    r101      upernet_r101_4xb2-80k_cityscapes-512x1024  79.40 / 80.46
    r50_769   upernet_r50_4xb2-40k_cityscapes-769x769    77.98 / 79.70
    r50_769   upernet_r50_4xb2-80k_cityscapes-769x769    79.39 / 80.92
    r101_769  upernet_r101_4xb2-40k_cityscapes-769x769   79.03 / 80.77
    r101_769  upernet_r101_4xb2-80k_cityscapes-769x769   80.10 / 81.49

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "r50_769", "r101_769")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.cityscapes(crop), name, "uper")
