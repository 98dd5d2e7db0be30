"""ADE20K, UPer head on Swin Transformer.

python -m se_jax.main --config=configs/ade20k_swin_uper.py:tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_swin_uper_tiny

16 crops of 512x512 a step, 160k steps, AdamW with a linear warm-up of 1500 steps. Equalizers are explicit.
base_window12 is for weights trained at 384x384.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    tiny           swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512            44.41 / 45.79
    small          swin-small-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512           47.72 / 49.24
    base           swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512            47.99 / 49.57
    base           swin-base-patch4-window7-in22k-pre_upernet_8xb2-160k_ade20k-512x512           50.13 / 51.90
    base_window12  swin-base-patch4-window12-in1k-384x384-pre_upernet_8xb2-160k_ade20k-512x512   48.35 / 49.65
    base_window12  swin-base-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512  50.76 / 52.40

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("tiny", "small", "base", "base_window12")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.swin(datasets.ade20k(), name)
