"""Cityscapes, UPer head on Twins, SVT or PCPVT.

python -m se_jax.main --config=configs/cityscapes_twins_uper.py:svt_small --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_twins_uper_svt_small

8 crops of 512x1024 a step, 80k steps, AdamW with a linear warm-up of 1500 steps. Equalizers are explicit.

mmsegmentation has no such config: the network and its optimiser are those of ade20k_twins_uper.py, data and schedule
those of the CNNs of this data set, and their combination is ours. No published row is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("svt_small", "svt_base", "svt_large", "pcpvt_small", "pcpvt_base", "pcpvt_large")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.twins(datasets.cityscapes(), name)
