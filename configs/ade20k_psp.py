"""ADE20K, PSP head (PSPNet) on a dilated ResNet-50, ResNet-101 or MobileNetV2 of output stride 8.

python -m se_jax.main --config=configs/ade20k_psp.py:r50 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_psp_r50

16 crops of 512x512 a step, 160k steps; --config.num_steps=80000 is the other published schedule. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    r50          pspnet_r50-d8_4xb4-80k_ade20k-512x512            41.13 / 41.94
    r50          pspnet_r50-d8_4xb4-160k_ade20k-512x512           42.48 / 43.44
    r101         pspnet_r101-d8_4xb4-80k_ade20k-512x512           43.57 / 44.35
    r101         pspnet_r101-d8_4xb4-160k_ade20k-512x512          44.39 / 45.35
    mobilenetv2  mobilenet-v2-d8_pspnet_4xb4-160k_ade20k-512x512  29.68

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "mobilenetv2")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.cnn(datasets.ade20k(), name, "psp")
