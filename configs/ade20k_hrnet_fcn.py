"""ADE20K, HRNet under an FCN head: one 1x1 convolution of its four branches, resized and concatenated.

python -m se_jax.main --config=configs/ade20k_hrnet_fcn.py:w18 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_hrnet_fcn_w18

16 crops of 512x512 a step, 160k steps; --config.num_steps=80000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    w18        fcn_hr18_4xb4-80k_ade20k-512x512    35.51
    w18        fcn_hr18_4xb4-160k_ade20k-512x512   36.79
    w18_small  fcn_hr18s_4xb4-80k_ade20k-512x512   31.38
    w18_small  fcn_hr18s_4xb4-160k_ade20k-512x512  33.00
    w48        fcn_hr48_4xb4-80k_ade20k-512x512    41.90
    w48        fcn_hr48_4xb4-160k_ade20k-512x512   42.02

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("w18", "w18_small", "w48")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.hrnet(datasets.ade20k(), name)
