"""PASCAL VOC 2012, UPer head on ConvNeXt.

python -m se_jax.main --config=configs/voc2012_convnext_uper.py:tiny --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/voc2012_convnext_uper_tiny

16 crops of 512x512 a step, 40k steps, AdamW with rates that fall with the depth and a linear warm-up of 1500 steps;
evaluated by windows of the crop's size. Equalizers are explicit.

mmsegmentation has no such config: the network and its optimiser are those of ade20k_convnext_uper.py, data and
schedule those of the CNNs of this data set, and their combination is ours. No published row is known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("tiny", "small", "base", "large", "xlarge")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return datasets.slide(networks.convnext(datasets.voc2012(), name), window=512, stride=341)
