"""HRNet (https://arxiv.org/abs/1908.07919): parallel branches of four resolutions that exchange features.

Numerically mmsegmentation 1.2.2's HRNet. The ImageNet checkpoints that it starts from come from a network of the same
weights that upsamples by nearest neighbour in its exchanges, where this one is bilinear.
"""

import functools
import operator
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.encoders.resnet import ResidualBlock
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import ConvBlock, resize
from se_jax.models.platforms import computed_once

STEM = 64
BLOCK: dict[str, Any] = {"scale_init": nn.initializers.ones}  # unlike ResNet's, no branch starts at zero
# `width` C: the branches have C, 2C, 4C and 8C channels; `modules`: exchange modules of stages 2, 3 and 4; `blocks`:
# residual blocks a branch has in each; `layer1_*`: the bottlenecks behind the stem.
_PUBLISHED = {"layer1_blocks": 4, "layer1_width": 64, "modules": (1, 4, 3), "blocks": 4}
VARIANTS: dict[str, dict] = {
    "w18_small": {"width": 18, "layer1_blocks": 2, "layer1_width": 64, "modules": (1, 3, 2), "blocks": 2},
    "w18": {"width": 18, **_PUBLISHED},
    "w32": {"width": 32, **_PUBLISHED},
    "w48": {"width": 48, **_PUBLISHED},
}


class ExchangeModule(nn.Module):
    """Residual blocks on every branch, then every branch becomes the sum of all, brought to its size and channels.

    Takes and returns a tuple of maps [b, h / 2**i, w / 2**i, 2**i width], finest first, sizes rounded up: mmseg's
    HRModule.
    """

    width: int
    blocks: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, maps, train: bool = False):
        block = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        maps = list(maps)
        for branch in range(len(maps)):
            for index in range(self.blocks):
                name = f"branches_{branch}_{index}"
                residual = block(self.width * 2**branch, bottleneck=False, **BLOCK, dtype=self.dtype, name=name)
                maps[branch] = computed_once(residual(maps[branch], train))
        fused = []
        for target in range(len(maps)):
            brought = [self._brought(maps, source, target, train) for source in range(len(maps))]
            fused.append(computed_once(nn.relu(functools.reduce(operator.add, brought))))
        return tuple(fused)

    def _brought(self, maps, source: int, target: int, train: bool):
        """The map of branch `source` in the size and channels of branch `target`."""
        x, steps = maps[source], target - source
        name, features = f"fuse_layers_{target}_{source}", self.width * 2**target
        if steps < 0:
            x = computed_once(ConvBlock(features, 1, activation=None, dtype=self.dtype, name=name)(x, train))
            # as the reference, odd sizes in two resizes: up by the whole factor, then down to the finer map's size
            x = resize(x, (x.shape[1] * 2**-steps, x.shape[2] * 2**-steps))
            return resize(x, maps[target].shape[1:3])
        for step in range(steps):
            last = step == steps - 1
            x = ConvBlock(
                features if last else x.shape[-1],
                3,
                strides=2,
                activation=None if last else nn.relu,
                dtype=self.dtype,
                name=f"{name}_{step}",
            )(x, train)
        return x


class HRNet(nn.Module):
    """HRNet encoder: image [b, h, w, 3] -> four maps [b, h/s, w/s, c], s = 4, 8, 16, 32, finest first; sizes round up.

    Attributes:
      variant: 'w18_small', 'w18', 'w32' or 'w48'. 'w18_small' is mmsegmentation's hr18s, which is HRNet-W18-C-Small-v2
        (timm's hrnet_w18_small_v2, not its hrnet_w18_small, which is 16 channels wide and has one module a stage).
      width, layer1_blocks, layer1_width, modules, blocks: None = the variant's; see `VARIANTS`. `layer1_width` counts
        before the bottlenecks' expansion by 4.
      remat: recompute each residual block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant that does not exist, or a size that is not positive.
    """

    variant: str = "w18"
    width: int | None = None
    layer1_blocks: int | None = None
    layer1_width: int | None = None
    modules: tuple[int, int, int] | None = None
    blocks: int | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        if len(sizes.modules) != 3 or min(sizes.modules) < 1:
            raise ValueError(
                f"HRNet modules is {sizes.modules}; expected three positive numbers, of stages 2, 3 and 4."
            )
        for name in ("width", "layer1_blocks", "layer1_width", "blocks"):
            if getattr(sizes, name) < 1:
                raise ValueError(f"HRNet {name} is {getattr(sizes, name)}; expected a positive number.")
        super().__post_init__()

    @property
    def sizes(self) -> SimpleNamespace:
        """The variant's sizes, with the fields that replace them."""
        return variant_sizes(self, VARIANTS)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps."""
        return tuple(self.sizes.width * 2**branch for branch in range(4))

    @nn.compact
    def __call__(self, x, train: bool = False):
        sizes, kind = self.sizes, {"dtype": self.dtype}
        x = ConvBlock(STEM, 3, strides=2, **kind, name="conv1")(x, train)
        x = ConvBlock(STEM, 3, strides=2, **kind, name="conv2")(x, train)
        block = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        for index in range(sizes.layer1_blocks):
            x = computed_once(
                block(sizes.layer1_width, bottleneck=True, **BLOCK, **kind, name=f"layer1_{index}")(x, train)
            )
        maps = (x,)
        for stage, modules in enumerate(sizes.modules, 2):
            maps = self._with_new_branch(maps, stage - 1, train)
            for index in range(modules):
                module = ExchangeModule(
                    sizes.width, sizes.blocks, **kind, remat=self.remat, name=f"stage{stage}_{index}"
                )
                maps = module(maps, train)
        return maps

    def _with_new_branch(self, maps, transition: int, train: bool):
        """One branch more, at half the resolution of the last; the first gets its channels where it lacks them."""
        new, width, kind = len(maps), self.sizes.width, {"dtype": self.dtype}
        last = maps[-1]
        if maps[0].shape[-1] != width:
            maps = (ConvBlock(width, 3, **kind, name=f"transition{transition}_0")(maps[0], train), *maps[1:])
        branch = ConvBlock(width * 2**new, 3, strides=2, **kind, name=f"transition{transition}_{new}")
        return (*maps, branch(last, train))
