"""Cityscapes, UPer head on Swin Transformer.

python -m se_jax.main --config=configs/cityscapes_swin_uper.py:tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_swin_uper_tiny

8 crops of 512x1024 a step, 80k steps, AdamW with a linear warm-up of 1500 steps. Equalizers are explicit.
base_window12 is for weights trained at 384x384.

mmsegmentation has no such config: the network and its optimiser are those of ade20k_swin_uper.py, data and schedule
those of the CNNs of this data set, and their combination is ours. No published row is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("tiny", "small", "base", "base_window12")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.swin(datasets.cityscapes(), name)
