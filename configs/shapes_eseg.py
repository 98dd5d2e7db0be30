"""Generated shapes, small ResNet-18 of output stride 32, ESeg's pyramid of 32 channels up to P7.

python -m se_jax.main --config=configs/shapes_eseg.py --workdir=runs/shapes_eseg

Meant for two CPU cores; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("eseg", channels=32, repeats=2, top_level=7, momentum=0.1)  # 96 x 128 pixels have no P8
    config = datasets.shapes(decoder, output_stride=32)
    config.model.auxiliary = None
    return config
