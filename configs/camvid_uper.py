"""CamVid, ResNet-50 V1c of output stride 32, UPer head (UPerNet).

python -m se_jax.main --config=configs/camvid_uper.py --config.data.dir=DIR --workdir=runs/camvid_uper

Meant for one GPU; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    return datasets.camvid(options.decoder("uper"), output_stride=32)
