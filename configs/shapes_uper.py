"""Generated shapes, small ResNet-18 of output stride 32, small UPer head.

python -m se_jax.main --config=configs/shapes_uper.py --workdir=runs/shapes_uper

Meant for two CPU cores; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    return datasets.shapes(options.decoder("uper", channels=32), output_stride=32)
