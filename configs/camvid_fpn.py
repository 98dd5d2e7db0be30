"""CamVid at half its resolution, ResNet-18 of half width, semantic FPN of 64 channels.

python -m se_jax.main --config=configs/camvid_fpn.py --config.data.dir=DIR --workdir=runs/camvid_fpn

Small enough for two CPU cores; not run to its end yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("fpn", channels=64, segmentation_channels=64)
    config = datasets.camvid(decoder, depth=18, width=32, output_stride=32)
    config.num_steps = 1200
    config.data.update(scale=(240, 180), crop=(180, 240), cache=True)
    config.optimizer.learning_rate = 0.05
    config.eval.update(every_steps=400, scale=(240, 180))
    config.model.align_corners = True  # as segmentation_models_pytorch has it
    config.model.auxiliary.channels = 32
    return config
