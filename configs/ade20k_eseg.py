"""ADE20K, ESeg: EfficientNet with a pyramid up to P9 (1/512) and BiFPN, in sizes S, M and L, or with Lite's blocks.

python -m se_jax.main --config=configs/ade20k_eseg.py:s --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/ade20k_eseg_s

64 crops of 512x512 a step, 95k steps (300 epochs). The paper's recipe is not known to us: rate, schedule, average of
the parameters, crop and epochs are ours, and what such a run reaches is no reproduction of the paper's numbers.
Equalizers are explicit, at the last sum. What configs/cityscapes_eseg.py says of other sites and of sizes holds here.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("s", "m", "l", "lite", "lite0")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    size, _ = networks.parse(variant, VARIANTS)
    # 300 and 5 epochs of 20210 images
    return networks.eseg(datasets.ade20k(), size, batch_size=64, num_steps=95_000, warmup_steps=1_600)
