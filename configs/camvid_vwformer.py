"""CamVid at two thirds of its resolution, ResNet-18 of half width, VWFormer's head of 64 channels: for two CPU cores.

python -m se_jax.main --config=configs/camvid_vwformer.py --config.data.dir=DIR --workdir=runs/camvid_vwformer

Images are evaluated at 256x320, the next multiples of 64. Seed 0, equalizers explicit: training loss 2.18 (step 50) to
0.89, mIoU 29.5 percent.
"""

from se_jax.config import datasets, optimizers, options


def get_config():
    """The config of this experiment."""
    decoder = options.decoder("vwformer", variant="light", channels=64, c1_channels=16)
    config = datasets.camvid(decoder, depth=18, width=32, output_stride=32)
    config.num_steps = 400
    config.data.update(scale=(320, 240), crop=(128, 256), cache=True)
    optimizer = optimizers.adamw_segformer(
        learning_rate=1e-3, warmup_steps=50, rate_multipliers=(), decay_multipliers=()
    )
    config.optimizer.update(optimizer)
    config.eval.update(every_steps=200, scale=(320, 240), size_multiple=64)
    config.checkpoint.every_steps = 200
    config.model.auxiliary = None
    return config
