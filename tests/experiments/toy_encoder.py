"""An encoder that costs nothing, and a config with it, for the tests of experiments on frozen features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.config import options, recipes


class Pyramid(nn.Module):
    """Images -> maps [b, h / s, w / s, 4] for s = 4, 8, 16: a convolution of 4 x 4 pixels, and its pooled maps.

    Each map is half as large in scale as the one before.
    """

    remat: bool = False
    dtype: Any = jnp.float32
    channels = (4, 4, 4)

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.relu(nn.Conv(4, (4, 4), (4, 4), dtype=self.dtype, name="conv")(images))
        maps = [x]
        for _ in range(2):
            maps.append(0.5 * nn.max_pool(maps[-1], (2, 2), (2, 2)))
        return tuple(maps)


def tiny_config():
    """A small head on generated shapes, whose encoder is not trained."""
    config = recipes.load("shapes_uper")
    config.num_steps = 3
    config.optimizer.freeze = ("^encoder/",)
    config.optimizer.update(name="adamw", learning_rate=1e-2, rate_multipliers=(("^encoder/", 0.1),))
    config.model.encoder, config.model.auxiliary = options.ConfigDict({"name": f"{__name__}:Pyramid"}), None
    fused = {"num_convs": 1, "kernel_size": 1, "concat_input": False, "resize_concat": True}
    config.model.decoder = options.ConfigDict(options.decoder("fcn", channels=8, in_index=0, **fused))
    config.data.update(num_train=6, num_val=5, batch_size=4, image_size=(33, 40), crop=(32, 32), photometric=False)
    config.eval.update(batch_size=2, scale=(32, 27))
    config.calibration.max_images = 4
    return config
