"""Generated shapes of 128x128, small ResNet-18 of output stride 32, VWFormer's head of 64 channels.

python -m se_jax.main --config=configs/shapes_vwformer.py --workdir=runs/shapes_vwformer

Meant for two CPU cores; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("vwformer", variant="light", channels=64, c1_channels=16)
    config = datasets.shapes(decoder, output_stride=32)
    config.data.update(image_size=(128, 128), crop=(128, 128))
    config.eval.size_multiple = 64
    config.model.auxiliary = None
    return config
