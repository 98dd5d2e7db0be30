"""Cityscapes, VWFormer: varying-window attention on ConvNeXt or a MixVisionTransformer.

python -m se_jax.main --config=configs/cityscapes_vwformer.py:convnext_tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_vwformer_convnext_tiny

16 crops of 512x1024 a step, 160k steps, AdamW with rates that fall with the depth and a linear warm-up of 1500 steps;
evaluated on whole images. Equalizers are explicit, before the levels are concatenated at 1/8 (mla) and at 1/4 (lle);
levels are upsampled to the nearest pixel at 1/8 here, which keeps their variance. The rows were trained in float16 with
a scaled loss, this in float32 (--config.model.dtype=bfloat16 is there too).

The authors' rows (github.com/yan-hao-tian/VW), of the plain network (--config.model.equalizer.mode=none) from an
encoder trained on ImageNet; mIoU in percent in one view:

    convnext_tiny    81.3
    convnext_small   82.2
    convnext_base    83.2
    convnext_large   83.4
    convnext_xlarge  83.6

Their code has no network on MiT: mit_b0 to mit_b5, the head's light widths for mit_b0 and mit_b1, and SegFormer's
optimiser are our choice.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = (
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"mit_b{size}" for size in range(6)),
)


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    head = "light" if name in ("mit_b0", "mit_b1") else "cityscapes"
    return networks.vwformer(datasets.cityscapes(), name, variant=head)
