"""CamVid at two thirds of its resolution, MiT of half B0's width, VWFormer's head of 64 channels: for two CPU cores.

python -m se_jax.main --config=configs/camvid_vwformer.py --config.data.dir=DIR --workdir=runs/camvid_vwformer

Images are evaluated at 256x320, the next multiples of 64. Not run to its end yet, so no time and no mIoU are known.
"""

from configs import common


def get_config():
    """The config of this experiment."""
    decoder = common.decoder("vwformer", variant="light", channels=64, c1_channels=16)
    config = common.camvid(decoder, "mit", width=16, drop_path=0.0)
    config.num_steps = 400
    config.data.update(scale=(320, 240), crop=(128, 256), cache=True)
    config.optimizer.update(common.adamw_segformer(learning_rate=1e-3, warmup_steps=50, rate_multipliers=()))
    config.eval.update(every_steps=200, scale=(320, 240), size_multiple=64)
    config.checkpoint.every_steps = 200
    config.model.auxiliary = None
    return config
