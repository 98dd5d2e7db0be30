"""CamVid at half its resolution, MobileNetV2 of half width with a SepASPP head: small enough for two CPU cores.

python -m se_jax.main --config=configs/camvid_mobilenetv2_sep_aspp.py --config.data.dir=DIR \\
    --workdir=runs/camvid_mobilenetv2_sep_aspp

Measured on two CPU cores, seed 0, equalizers explicit: validation mIoU 0.375 in about 7 minutes.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("sep_aspp", channels=64, dilations=(1, 3, 6, 9))  # maps of 23 x 30 pixels
    config = datasets.camvid(decoder, "mobilenetv2", width=0.5)
    config.num_steps = 600
    config.data.update(scale=(240, 180), crop=(180, 240), cache=True)
    config.optimizer.learning_rate = 0.05
    config.eval.update(every_steps=300, scale=(240, 180))
    config.model.auxiliary.channels = 32
    return config
