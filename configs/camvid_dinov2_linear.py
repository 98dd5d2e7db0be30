"""CamVid at 336x252, DINOv2's linear head on DINOv2-S with registers, which keeps its weights: for two CPU cores.

python -m experiments.paired --config=camvid_dinov2_linear:last --config.data.dir=DIR \\
    --config.init_from=dinov2_vits14_reg4_pretrain.pth --arms=none --seeds=0..2

The argument says which maps the head sees: of the last block, or of the last 'four'. The encoder's features are
computed once and kept; the head is trained on them. In a run of its own they are computed in every step:

python -m se_jax.main --config=configs/camvid_dinov2_linear.py:last --config.data.dir=DIR \\
    --config.init_from=dinov2_vits14_reg4_pretrain.pth --workdir=runs/camvid_dinov2_linear

The weights are facebookresearch's, not part of this library (dl.fbaipublicfiles.com/dinov2/dinov2_vits14/). Rate,
decay, schedule and head are those of DINOv2's own linear evaluation; sizes and steps are ours. Not run with its weights
yet, so no mIoU is known.
"""

from se_jax.config import datasets, networks, optimizers, options

LAYERS = {"last": (11,), "four": (8, 9, 10, 11)}
VARIANTS = tuple(LAYERS)


def get_config(layers: str = "last"):
    """The config of this experiment."""
    name, _ = networks.parse(layers, VARIANTS)
    config = datasets.camvid(options.decoder("linear"), "vit", variant="dinov2_small_reg", outputs=LAYERS[name])
    config.init_from = "dinov2_vits14_reg4_pretrain.pth"
    config.num_steps = 400
    config.data.update(scale=(336, 252), crop=(252, 336), cache=True)
    config.optimizer.update(
        optimizers.sgd(name="adamw", learning_rate=1e-3, min_learning_rate=0.0, warmup_steps=15, weight_decay=1e-4)
    )
    config.optimizer.power, config.optimizer.freeze = 1.0, ("^encoder/",)
    config.eval.update(every_steps=200, scale=(336, 252), size_multiple=14)
    config.checkpoint.every_steps = 200
    config.model.auxiliary, config.model.equalizer.mode = None, "none"
    return config
