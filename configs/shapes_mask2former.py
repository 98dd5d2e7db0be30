"""Generated shapes, small ResNet-18 of output stride 32, Mask2Former of 64 channels and 20 queries.

python -m se_jax.main --config=configs/shapes_mask2former.py --workdir=runs/shapes_mask2former

Measured on two CPU cores, seed 0, equalizers explicit: training loss 32.1 (step 50) to 20.2, validation mIoU 0.533.
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.shapes(options.decoder("mask2former"), output_stride=32)
    config = networks.small_mask2former(config)
    config.num_steps = 1200
    config.eval.every_steps = config.checkpoint.every_steps = 400
    return config
