"""CamVid, ResNet-50 V1c of output stride 8, ASPP head (DeepLabV3).

python -m se_jax.main --config=configs/camvid_aspp.py --config.data.dir=DIR --workdir=runs/camvid_aspp

Meant for one GPU; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    return datasets.camvid(options.decoder("aspp"))
