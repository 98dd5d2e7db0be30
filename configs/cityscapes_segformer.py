"""Cityscapes, SegFormer: its head on a MixVisionTransformer.

python -m se_jax.main --config=configs/cityscapes_segformer.py:b0 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_segformer_b0

8 crops of 1024x1024 a step, 160k steps, AdamW with a linear warm-up of 1500 steps, the head at ten times the rate;
evaluated by windows of 1024x1024. Equalizers are explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    b0  segformer_mit-b0_8xb1-160k_cityscapes-1024x1024  76.54 / 78.22
    b1  segformer_mit-b1_8xb1-160k_cityscapes-1024x1024  78.56 / 79.73
    b2  segformer_mit-b2_8xb1-160k_cityscapes-1024x1024  81.08 / 82.18
    b3  segformer_mit-b3_8xb1-160k_cityscapes-1024x1024  81.94 / 83.14
    b4  segformer_mit-b4_8xb1-160k_cityscapes-1024x1024  81.89 / 83.38
    b5  segformer_mit-b5_8xb1-160k_cityscapes-1024x1024  82.25 / 83.48

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return datasets.slide(networks.segformer(datasets.cityscapes(1024), name), window=1024, stride=768)
