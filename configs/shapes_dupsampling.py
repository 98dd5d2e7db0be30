"""Generated shapes, DUpsampling on a small ResNet-18 of DeepLab's form: for two CPU cores.

python -m se_jax.dupsample_fit --config=configs/shapes_dupsampling.py --workdir=runs/shapes_fit
python -m se_jax.main --config=configs/shapes_dupsampling.py --config.constants_from=runs/shapes_fit \\
    --workdir=runs/shapes_dupsampling

Not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, optimizers, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("dupsampling", channels=32, low_channels=12, dilations=(1, 2, 3, 4))
    config = datasets.shapes(decoder, variant="beta", output_stride=16)
    config.optimizer.decay_multipliers = optimizers.FREE_TEMPERATURE
    config.model.auxiliary = None
    return config
