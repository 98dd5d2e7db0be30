"""Cityscapes, HRNet under an FCN head: one 1x1 convolution of its four branches, resized and concatenated.

python -m se_jax.main --config=configs/cityscapes_hrnet_fcn.py:w18 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_hrnet_fcn_w18

8 crops of 512x1024 a step, 80k steps; --config.num_steps=40000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    w18        fcn_hr18_4xb2-40k_cityscapes-512x1024   77.19
    w18        fcn_hr18_4xb2-80k_cityscapes-512x1024   78.65
    w18_small  fcn_hr18s_4xb2-40k_cityscapes-512x1024  73.86
    w18_small  fcn_hr18s_4xb2-80k_cityscapes-512x1024  75.31
    w48        fcn_hr48_4xb2-40k_cityscapes-512x1024   78.48
    w48        fcn_hr48_4xb2-80k_cityscapes-512x1024   79.93

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("w18", "w18_small", "w48")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.hrnet(datasets.cityscapes(), name)
