"""CamVid at two thirds of its resolution, ResNet-18 of half width, Mask2Former with VWFormer's mask features.

python -m se_jax.main --config=configs/camvid_vw_mask2former.py --config.data.dir=DIR \\
    --workdir=runs/camvid_vw_mask2former

As camvid_mask2former.py, for two CPU cores; variant a, its varying windows are of 64 channels.
"""

from se_jax.config import datasets, networks, options


def get_config():
    """The config of this experiment."""
    config = datasets.camvid(options.decoder("vw_mask2former"), depth=18, width=32, output_stride=32)
    windows = {"vw_channels": 64, "vw_heads": 4, "low_channels": 16}
    config = networks.small_mask2former(config, "vw_mask2former", **windows)
    config.num_steps = 400
    config.data.update(scale=(320, 240), crop=(128, 256), cache=True)
    config.eval.update(every_steps=200, scale=(320, 240))
    config.checkpoint.every_steps = 200
    return config
