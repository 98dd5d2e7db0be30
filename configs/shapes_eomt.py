"""Generated shapes, a plain vision transformer of 4 blocks and width 96 from chance, EoMT of 20 queries.

python -m se_jax.main --config=configs/shapes_eomt.py --workdir=runs/shapes_eomt

Meant for two CPU cores; not run to its end yet, so no mIoU is known.
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.shapes(options.decoder("eomt"))
    config = networks.small_eomt(config, 96, width=96, depth=4, heads=3, patch=8)
    config.num_steps = 1200
    config.eval.every_steps = config.checkpoint.every_steps = 400
    return config
