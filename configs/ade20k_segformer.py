"""ADE20K, SegFormer: its head on a MixVisionTransformer.

python -m se_jax.main --config=configs/ade20k_segformer.py:b0 --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_segformer_b0

16 crops of 512x512 (b5_640: of 640x640) a step, 160k steps, AdamW with a linear warm-up of 1500 steps, the head at ten
times the rate. Equalizers are explicit. mmsegmentation's head has 256 channels for every size, and a BatchNorm behind
every projection.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    b0      segformer_mit-b0_8xb2-160k_ade20k-512x512  37.41 / 38.34
    b1      segformer_mit-b1_8xb2-160k_ade20k-512x512  40.97 / 42.54
    b2      segformer_mit-b2_8xb2-160k_ade20k-512x512  45.58 / 47.03
    b3      segformer_mit-b3_8xb2-160k_ade20k-512x512  47.82 / 48.81
    b4      segformer_mit-b4_8xb2-160k_ade20k-512x512  48.46 / 49.76
    b5      segformer_mit-b5_8xb2-160k_ade20k-512x512  49.13 / 50.22
    b5_640  segformer_mit-b5_8xb2-160k_ade20k-640x640  49.62 / 50.36

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b5_640")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    config = networks.segformer(datasets.ade20k(crop), name)
    if crop:
        config.data.scale = config.eval.scale = (2048, crop)  # not (2560, 640) as of ConvNeXt
    return config
