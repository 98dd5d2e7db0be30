"""Generated shapes, small ResNet-18 of output stride 32, small UPer head.

python -m se_jax.main --config=configs/shapes_uper.py --workdir=runs/shapes_uper

Meant for two CPU cores; not run yet, so no time and no mIoU are known.
"""

from configs import common


def get_config():
    """The config of this experiment."""
    return common.shapes(common.decoder("uper", channels=32), output_stride=32)
