"""ADE20K, UPer head on ConvNeXt.

python -m se_jax.main --config=configs/ade20k_convnext_uper.py:tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_convnext_uper_tiny

16 crops of 512x512, of 640x640 in the variants _640, a step, 160k steps, AdamW with rates that fall with the depth and
a linear warm-up of 1500 steps; evaluated by windows of the crop's size. Equalizers are explicit. The rows were trained
in float16 with a scaled loss, this in float32 (--config.model.dtype=bfloat16 is there too).

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    tiny        convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512    46.11 / 46.62
    small       convnext-small_upernet_8xb2-amp-160k_ade20k-512x512   48.56 / 49.02
    base        convnext-base_upernet_8xb2-amp-160k_ade20k-512x512    48.71 / 49.54
    base_640    convnext-base_upernet_8xb2-amp-160k_ade20k-640x640    52.13 / 52.66
    large_640   convnext-large_upernet_8xb2-amp-160k_ade20k-640x640   53.16 / 53.38
    xlarge_640  convnext-xlarge_upernet_8xb2-amp-160k_ade20k-640x640  53.58 / 54.11

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("tiny", "small", "base", "base_640", "large_640", "xlarge_640")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    config = networks.convnext(datasets.ade20k(crop), name)
    return datasets.slide(config, window=crop or 512, stride=426 if crop else 341)
