"""CamVid at half its resolution, Swin of a quarter of Swin-T's width with a UPer head: small enough for two CPU cores.

python -m se_jax.main --config=configs/camvid_swin_uper.py --config.data.dir=DIR --workdir=runs/camvid_swin_uper

Measured on two CPU cores, seed 0, equalizers explicit: validation mIoU 0.328 in about 5 minutes.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("uper", channels=64)
    config = datasets.camvid(decoder, "swin", width=24, heads=(1, 2, 4, 8), depths=(2, 2, 2, 2), drop_path=0.1)
    config.num_steps = 600
    config.data.update(scale=(240, 180), crop=(180, 240), cache=True)
    config.optimizer.update(name="adamw", learning_rate=1e-3, min_learning_rate=0.0, power=1.0)
    config.optimizer.update(warmup_steps=100, weight_decay=0.01)
    config.eval.update(every_steps=300, scale=(240, 180))
    config.model.auxiliary.channels = 32
    return config
