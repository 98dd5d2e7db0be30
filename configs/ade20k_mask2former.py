"""ADE20K, Mask2Former: masked attention of 100 queries, each a class and a mask.

python -m se_jax.main --config=configs/ade20k_mask2former.py:swin_tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_mask2former_swin_tiny

16 crops of 512x512 (base and large: 640x640, windows of 12) a step, 160k steps, AdamW with a tenth of the rate in the
encoder, gradients cut to a norm of 0.01, bfloat16 but for the pixel decoder and the losses; evaluated on whole images,
padded to multiples of 32. The equalizer is explicit, where the pixel decoder adds the map of stride 4 to the one of
stride 8 (fpn). Classes are averaged over the whole batch, where the authors' code does so on each device.

Rows of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet; mIoU in percent, the
authors' (their repository's MODEL_ZOO.md) in one view / in twelve, and mmsegmentation's (its metafile) in one view:

    r50         47.2 / 49.2   47.87
    r101        47.8 / 50.1   48.60
    swin_tiny   47.7 / 49.6   48.66
    swin_small  51.3 / 52.4   51.24
    swin_base   52.4 / 53.7   52.44   ImageNet-1k
    swin_base   53.9 / 55.1   53.90   ImageNet-21k
    swin_large  56.1 / 57.3   56.01   ImageNet-21k

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("r50", "r101", "swin_tiny", "swin_small", "swin_base", "swin_large")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    crop = 640 if name in ("swin_base", "swin_large") else None
    return networks.mask2former(datasets.ade20k(crop), name)
