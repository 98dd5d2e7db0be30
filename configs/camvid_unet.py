"""CamVid at half its resolution, ResNet-18 of half width, U-Net of 128 to 8 channels on its stem and four stages.

python -m se_jax.main --config=configs/camvid_unet.py --config.data.dir=DIR --workdir=runs/camvid_unet

Small enough for two CPU cores; not run to its end yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options

MAPS = ("conv1_3", "layer1", "layer2", "layer3", "layer4")  # the stem's, of stride 2, is fused too


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("unet", channels=128)
    config = datasets.camvid(decoder, depth=18, width=32, output_stride=32, outputs=MAPS)
    config.num_steps = 1200
    config.data.update(scale=(240, 180), crop=(180, 240), cache=True)
    config.optimizer.learning_rate = 0.05
    config.eval.update(every_steps=400, scale=(240, 180))
    config.model.auxiliary.update(in_index=3, channels=32)
    return config
