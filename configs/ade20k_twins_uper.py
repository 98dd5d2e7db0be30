"""ADE20K, UPer head on Twins, SVT or PCPVT.

python -m se_jax.main --config=configs/ade20k_twins_uper.py:svt_small --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_twins_uper_svt_small

16 crops of 512x512 a step, 32 for pcpvt_small, 160k steps, AdamW with a linear warm-up of 1500 steps. Equalizers are
explicit.

mmsegmentation's rows, of the plain network (--config.model.equalizer.mode=none) from an encoder trained on ImageNet;
mIoU in percent in one view / in twelve:

    svt_small    twins_svt-s_uperhead_8xb2-160k_ade20k-512x512    46.08 / 46.96
    svt_base     twins_svt-b_uperhead_8xb2-160k_ade20k-512x512    48.04 / 48.87
    svt_large    twins_svt-l_uperhead_8xb2-160k_ade20k-512x512    49.65 / 50.63
    pcpvt_small  twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512  46.04 / 46.92
    pcpvt_base   twins_pcpvt-b_uperhead_8xb2-160k_ade20k-512x512  47.91 / 48.64
    pcpvt_large  twins_pcpvt-l_uperhead_8xb2-160k_ade20k-512x512  49.35 / 50.08

mmsegmentation files the row of svt_large under the name of pcpvt-l's config.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("svt_small", "svt_base", "svt_large", "pcpvt_small", "pcpvt_base", "pcpvt_large")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    config = networks.twins(datasets.ade20k(), name)
    if name == "pcpvt_small":
        config.data.batch_size = 32
    return config
