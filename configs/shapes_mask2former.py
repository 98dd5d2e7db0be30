"""Generated shapes, small ResNet-18 of output stride 32, Mask2Former of 64 channels and 20 queries.

python -m se_jax.main --config=configs/shapes_mask2former.py --workdir=runs/shapes_mask2former
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.shapes(options.decoder("mask2former"), output_stride=32)
    config = networks.small_mask2former(config)
    config.num_steps = 1200
    config.eval.every_steps = config.checkpoint.every_steps = 400
    return config
