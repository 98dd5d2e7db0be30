"""Generated shapes, a plain vision transformer of 4 blocks and width 96 from chance, EoMT of 20 queries.

python -m se_jax.main --config=configs/shapes_eomt.py --workdir=runs/shapes_eomt

Seed 0 on two CPU cores that others used: mIoU 10.1, 15.1 and 16.3 after 500, 1000 and 1500 steps, in ten minutes.
Queries that are matched learn slowly from chance; the rate is the better of 0.0002 and 0.001 (5.5 after 400 steps).
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.shapes(options.decoder("eomt"))
    config = networks.small_eomt(config, 96, width=96, depth=4, heads=3, patch=8)
    config.num_steps = 1500
    config.eval.every_steps = config.checkpoint.every_steps = 500
    return config
