"""ADE20K, VWFormer: varying-window attention on ConvNeXt, Swin or a MixVisionTransformer.

python -m se_jax.main --config=configs/ade20k_vwformer.py:convnext_tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_vwformer_convnext_tiny

16 crops of 512x512, of 640x640 in the variants _640, a step, 160k steps, AdamW with rates that fall with the depth and
a linear warm-up of 1500 steps; evaluated on whole images, whose sides are resized up to multiples of 64. Equalizers are
explicit, before the levels are concatenated at 1/8 (mla) and at 1/4 (lle). The rows of ConvNeXt were trained in float16
with a scaled loss, this in float32 (--config.model.dtype=bfloat16 is there too).

The authors' rows (github.com/yan-hao-tian/VW), of the plain network (--config.model.equalizer.mode=none) from an
encoder trained on ImageNet; mIoU in percent in one view / in twelve, which are of the sizes that images are fitted to:

    convnext_tiny        47.3 / 48.3
    convnext_small       48.8 / 49.9
    convnext_base_640    53.3 / 54.1
    convnext_large_640   54.3 / 55.1
    convnext_xlarge_640  54.6 / 55.3
    swin_base_640        52.5 / 53.5
    swin_large_640       54.4 / 55.8

Their config of ConvNeXt-S is one for Cityscapes; here it has the others' head. Their code has no network on MiT. That
the paper's with MiT-B0 has the head's light widths is what they answered a question with; that B1 has too, that B2 to
B5 have the head of the others, and SegFormer's recipe, is our choice.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = (
    "convnext_tiny",
    "convnext_small",
    "convnext_base_640",
    "convnext_large_640",
    "convnext_xlarge_640",
    "swin_base_640",
    "swin_large_640",
    *(f"mit_b{size}" for size in range(6)),
)


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, crop = networks.parse(variant, VARIANTS)
    head = {"shortcut": False} if name == "swin_large" else {}
    if name in ("mit_b0", "mit_b1"):
        head["variant"] = "light"
    return networks.vwformer(datasets.ade20k(crop), name, **head)
