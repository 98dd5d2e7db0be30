"""CamVid, squares of two thirds of its height, a plain vision transformer of 6 blocks from chance, EoMT of 20 queries.

python -m se_jax.main --config=configs/camvid_eomt.py --config.data.dir=DIR --workdir=runs/camvid_eomt

Evaluated by two windows of 240x240. For weights, --config.model.encoder.variant=dinov2_small_reg with its sizes and
--config.init_from=FILE. Meant for two CPU cores; 200 steps reach an mIoU of 19.2 (seed 0), all were not run.
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.camvid(options.decoder("eomt"))
    config = networks.small_eomt(config, 240, width=192, depth=6, heads=3, patch=16)
    config.num_steps = 400
    config.data.cache = True
    config.eval.every_steps = config.checkpoint.every_steps = 200
    return config
