"""CamVid at half its resolution, EfficientNet of half B0's width and depth, ESeg's pyramid: for two CPU cores.

python -m se_jax.main --config=configs/camvid_eseg.py --config.data.dir=DIR --workdir=runs/camvid_eseg

Seed 0, equalizers explicit: training loss 1.61 (step 50) to 0.75, mIoU 25.2 percent.
"""

from se_jax.config import datasets, optimizers, options


def get_config():
    """The config of this experiment."""
    # crops of 180 x 240 have no P9
    decoder = options.decoder("eseg", channels=32, repeats=2, top_level=7, momentum=0.1)
    config = datasets.camvid(decoder, "efficientnet", width=0.5, depth=0.5, momentum=0.1, drop_path=0.0)
    config.num_steps = 400
    config.data.update(scale=(240, 180), crop=(180, 240), cache=True)
    config.optimizer.update(optimizers.sgd_eseg(8, learning_rate=0.05, warmup_steps=50))
    config.eval.update(every_steps=200, scale=(240, 180))
    config.checkpoint.every_steps = 200
    config.model.auxiliary = None
    return config
