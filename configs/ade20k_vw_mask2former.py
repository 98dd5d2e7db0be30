"""ADE20K, Mask2Former whose mask features are VWFormer's, on Swin Transformer.

python -m se_jax.main --config=configs/ade20k_vw_mask2former.py:a_tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_vw_mask2former_a_tiny

Varying-window attention in the place of the deformable one (a), or behind it (b). All else is Mask2Former's recipe, see
ade20k_mask2former.py; images are padded to multiples of 64. The equalizer is explicit, where the map of stride 8 is
concatenated with that of stride 4 (lle).

The authors' rows (github.com/yan-hao-tian/VW), of the plain network (--config.model.equalizer.mode=none) from an
encoder trained on ImageNet; mIoU in percent in one view / in twelve:

    a_tiny   48.2 / 50.5    b_tiny   48.5 / 50.3
    a_small  52.1 / 53.7    b_small  52.0 / 53.6
    a_base   54.6 / 56.0    b_base   55.2 / 56.5
    a_large  56.5 / 57.8    b_large  56.9 / 58.3

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = tuple(f"{variant}_{size}" for variant in "ab" for size in ("tiny", "small", "base", "large"))


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    kind, size = name.split("_")
    crop = 640 if size in ("base", "large") else None
    return networks.mask2former(datasets.ade20k(crop), f"swin_{size}", "vw_mask2former", variant=kind)
