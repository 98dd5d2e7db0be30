"""Cityscapes, Mask2Former: masked attention of 100 queries, each a class and a mask.

python -m se_jax.main --config=configs/cityscapes_mask2former.py:swin_tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_mask2former_swin_tiny

16 crops of 512x1024 a step, 90k steps, the rest as in ade20k_mask2former.py.

Rows of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet; mIoU in percent, the
authors' (their repository's MODEL_ZOO.md) in one view / in twelve, and mmsegmentation's (its metafile) in one view:

    r50         79.4 / 82.2   80.44
    r101        80.1 / 81.9   80.80
    swin_tiny   82.1 / 83.0   81.71
    swin_small  82.6 / 83.6   82.57
    swin_base   83.3 / 84.5   83.52   ImageNet-21k
    swin_large  83.3 / 84.3   83.65   ImageNet-21k

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "swin_tiny", "swin_small", "swin_base", "swin_large")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.mask2former(datasets.cityscapes(), name)
