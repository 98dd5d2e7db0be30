"""Generated shapes, small ResNet-18 of output stride 8, small ASPP head.

python -m se_jax.main --config=configs/shapes_aspp.py --workdir=runs/shapes_aspp

Meant for two CPU cores; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    return datasets.shapes(options.decoder("aspp", channels=32, dilations=(1, 2, 4, 6)))
