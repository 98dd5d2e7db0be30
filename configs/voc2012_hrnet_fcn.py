"""PASCAL VOC 2012, HRNet under an FCN head: one 1x1 convolution of its four branches, resized and concatenated.

python -m se_jax.main --config=configs/voc2012_hrnet_fcn.py:w18 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_hrnet_fcn_w18

16 crops of 512x512 a step, 40k steps; --config.num_steps=20000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    w18        fcn_hr18_4xb4-20k_voc12aug-512x512   72.30
    w18        fcn_hr18_4xb4-40k_voc12aug-512x512   72.90
    w18_small  fcn_hr18s_4xb4-20k_voc12aug-512x512  65.20
    w18_small  fcn_hr18s_4xb4-40k_voc12aug-512x512  66.61
    w48        fcn_hr48_4xb4-20k_voc12aug-512x512   75.87
    w48        fcn_hr48_4xb4-40k_voc12aug-512x512   76.24

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("w18", "w18_small", "w48")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.hrnet(datasets.voc2012(), name)
