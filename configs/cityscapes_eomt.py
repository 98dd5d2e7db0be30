"""Cityscapes, EoMT: queries in the last blocks of a plain vision transformer, each a class and a mask.

python -m se_jax.main --config=configs/cityscapes_eomt.py:dinov2_large --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_eomt_dinov2_large

16 crops of 1024x1024 a step, 19795 steps (107 epochs), the rest as in ade20k_eomt.py.

Rows published by the authors (their repository's model zoo), mIoU in percent, one view:

    dinov2_large   84.2

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
    return networks.eomt(datasets.cityscapes(1024), name)
