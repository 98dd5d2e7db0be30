"""Configs of the data sets, to be given a network: published protocols, CamVid, generated shapes."""

from se_jax.config import options
from se_jax.config.types import ConfigDict


def ade20k(crop: int | None = None) -> ConfigDict:
    """ADE20K as mmsegmentation trains on it: 16 crops of 512x512 (or of another size) a step, 160k steps."""
    crop = crop or 512
    return _benchmark("ade20k", 150, num_steps=160_000, batch_size=16, crop=(crop, crop), scale=(4 * crop, crop))


def voc2012() -> ConfigDict:
    """PASCAL VOC 2012 with SBD's labels as mmsegmentation trains on it: 16 crops of 512x512 a step, 40k steps."""
    config = _benchmark("voc2012", 21, num_steps=40_000, batch_size=16, crop=(512, 512), scale=(2048, 512))
    config.data.black_padding = True
    return config


def cityscapes(crop: int | None = None) -> ConfigDict:
    """Cityscapes as mmsegmentation trains on it: 8 crops of 512x1024 a step, 80k steps.

    crop: 769 for 769x769, with its own resizes and windows; 1024 for 1024x1024, SegFormer's.
    """
    crops = {None: (512, 1024), 769: (769, 769), 1024: (1024, 1024)}
    scale = (2049, 1025) if crop == 769 else (2048, 1024)
    config = _benchmark("cityscapes", 19, num_steps=80_000, batch_size=8, crop=crops[crop], scale=scale)
    if crop == 769:
        config.model.align_corners = True
        slide(config, window=769, stride=513)
    return config


def _benchmark(name: str, num_classes: int, *, num_steps: int, batch_size: int, crop, scale) -> ConfigDict:
    """A published data set; the loss is averaged over all pixels, as mmsegmentation does."""
    config = options.get_config()
    config.num_steps = num_steps
    config.loss.average = "all"
    config.data.update(name=name, batch_size=batch_size, crop=crop, scale=scale)
    config.eval.update(every_steps=num_steps // 10, scale=scale)
    config.checkpoint.every_steps = num_steps // 10
    config.model.num_classes = num_classes
    return config


def slide(config: ConfigDict, *, window: int, stride: int) -> ConfigDict:
    """The same config, evaluated by square windows."""
    config.eval.update(mode="slide", window=(window, window), stride=(stride, stride))
    return config


def camvid(decoder: dict, name: str = "resnet", **changes) -> ConfigDict:
    """CamVid at its full 480x360, trained from scratch with the given decoder, encoder and changes of the encoder."""
    config = options.get_config()
    config.num_steps = 10_000
    config.data.update(name="folder", dir="data/camvid", batch_size=8, scale=(480, 360), crop=(360, 480))
    config.eval.update(batch_size=4, scale=(480, 360))
    config.model.num_classes = 11
    config.model.decoder = ConfigDict(decoder)
    config.model.encoder = ConfigDict(options.encoder(name, **changes))
    return config


def shapes(decoder: dict, **changes) -> ConfigDict:
    """Generated shapes with a small network, for a machine of two cores."""
    config = options.get_config()
    config.num_steps = 600
    config.data.batch_size = 8
    config.eval.update(every_steps=200, batch_size=8)
    config.checkpoint.every_steps = 200
    config.calibration.max_images = 256
    config.optimizer.learning_rate = 0.05
    config.model.decoder = ConfigDict(decoder)
    config.model.encoder.update({"depth": 18, "width": 16} | changes)
    config.model.auxiliary.channels = 32
    return config
