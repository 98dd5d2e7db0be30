"""ADE20K, FCN head on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/ade20k_fcn.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_fcn_r50

16 crops of 512x512 a step, 160k steps; --config.num_steps=80000 is the other published schedule. The head resizes
nothing before it fuses, so the network is the plain one; --config.model.equalizer.mode=explicit
--config.model.equalizer.sites=concat_input equalizes its one concatenation.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          fcn_r50-d8_4xb4-80k_ade20k-512x512            35.94 / 37.94
    r50          fcn_r50-d8_4xb4-160k_ade20k-512x512           36.10 / 38.08
    r101         fcn_r101-d8_4xb4-80k_ade20k-512x512           39.61 / 40.83
    r101         fcn_r101-d8_4xb4-160k_ade20k-512x512          39.91 / 41.40
    mobilenetv2  mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512  19.71

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.ade20k(), name, "fcn")
