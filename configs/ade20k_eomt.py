"""ADE20K, EoMT: queries in the last blocks of a plain vision transformer, each a class and a mask.

python -m se_jax.main --config=configs/ade20k_eomt.py:dinov2_large --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_eomt_dinov2_large

16 crops of 512x512 a step, 39153 steps (31 epochs; DINOv3: 20208), AdamW with rates that fall with the depth, the
encoder waits while the head warms up, masks of the queries' attention are given up block by block; evaluated by windows
of 512x512 in even steps along the longer side. FILE holds DINOv2's weights with registers, or DINOv3's.

Rows published by the authors (their repository's model zoo), mIoU in percent, one view:

    dinov2_large   58.4
    dinov3_large   59.5

The smaller ones are not published by them. There is no fusion of levels here, so no equalizer: this is the control of
the question whether levels must be fused at all. Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is
known.
"""

from se_jax.config import datasets, networks

VARIANTS = (
    "dinov2_large",
    "dinov2_small",
    "dinov2_base",
    "dinov2_giant",
    "dinov3_large",
    "dinov3_small",
    "dinov3_base",
)


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.eomt(datasets.ade20k(), name)
