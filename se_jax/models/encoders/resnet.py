"""ResNet (https://arxiv.org/abs/1512.03385), V1b, V1c and V1d (https://arxiv.org/abs/1812.01187), dilated as DeepLab's.

Numerically mmsegmentation's ResNet, ResNetV1c and ResNetV1d in "pytorch" style with contract_dilation. The variant
'beta' is that of DeepLab's own code (core/resnet_v1_beta.py of tensorflow/models), with torch's padding.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.layers import ConvBlock, avg_pool_ceil, max_pool

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}  # residual blocks of the four stages
BOTTLENECK_DEPTHS = (50, 101, 152)
BOTTLENECK_EXPANSION = 4
# Below the output stride a stage halves the map, from there on it doubles the dilation instead.
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}
VARIANTS = ("v1b", "v1c", "v1d", "beta")
STAGES = ("layer1", "layer2", "layer3", "layer4")  # the maps that are handed out by default


class ResidualBlock(nn.Module):
    """One residual block: [b, h, w, c] -> [b, ceil(h / strides), ceil(w / strides), out].

    A basic block (two 3x3, of which only the first is dilated; out = features) or a bottleneck (1x1, 3x3, 1x1;
    out = 4 features).

    Attributes:
      scale_init: of the branch's last normalisation; from weight zero, a new block is its shortcut.
      average_shortcut: V1d's shortcut, which averages before its 1x1 convolution instead of dropping pixels.
      plain_shortcut: beta's shortcut, which drops pixels and has a convolution only where the channels change.
      with_branch: return the branch too, as it is before the sum: (block's output, branch's output).
      norm: as ConvBlock's.
    """

    features: int
    bottleneck: bool
    strides: int = 1
    dilation: int = 1
    average_shortcut: bool = False
    plain_shortcut: bool = False
    with_branch: bool = False
    scale_init: Callable = nn.initializers.zeros
    norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        common = {"norm": self.norm, "dtype": self.dtype}
        last = {"activation": None, "scale_init": self.scale_init, **common}
        spatial = {"strides": self.strides, "dilation": self.dilation, **common}
        if self.bottleneck:
            out = self.features * BOTTLENECK_EXPANSION
            y = ConvBlock(self.features, 1, **common, name="conv1")(x, train)
            y = ConvBlock(self.features, 3, **spatial, name="conv2")(y, train)
            y = ConvBlock(out, 1, **last, name="conv3")(y, train)
        else:
            out = self.features
            y = ConvBlock(self.features, 3, **spatial, name="conv1")(x, train)
            y = ConvBlock(out, 3, **last, name="conv2")(y, train)
        if self.plain_shortcut and x.shape[-1] == out:
            x = x[:, :: self.strides, :: self.strides]
        elif self.strides != 1 or x.shape[-1] != out:
            strides = self.strides
            if self.average_shortcut and strides > 1:
                x, strides = avg_pool_ceil(x, strides), 1
            shortcut = ConvBlock(out, 1, strides=strides, activation=None, **common, name="downsample")
            x = shortcut(x, train)
        return (nn.relu(y + x), y) if self.with_branch else nn.relu(y + x)


class ResNet(nn.Module):
    """ResNet encoder: image [b, h, w, 3] -> feature maps [b, h/s, w/s, c], finest first; odd sizes are rounded up.

    There are four by default, of strides 4, 8, 16 and 32 (or the output stride, where that is less): the outputs of the
    stages or, of 'beta', whose stages end with their stride, what enters the last block of the first three.

    Attributes:
      depth: 10 (for small machines and tests), 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
      variant: 'v1b' (one 7x7 convolution as stem), 'v1c' (three 3x3), 'v1d' (v1c with averaging shortcuts), 'beta' (v1c
        with a stem of twice the channels, and strides in the last block of a stage instead of the first).
      output_stride: 8, 16 or 32, the stride of the last map. Stages that would exceed it are dilated; the first block
        of a dilated stage has half the dilation of the others (all have the same in 'beta').
      width: channels of the stem and of the first stage before expansion; 64 is the published network.
      multi_grid: dilations of the last stage's blocks, which replace (not multiply) the stage's own; None keeps those.
      outputs: names of the maps to hand out, in this order: 'layer1' to 'layer4', the default; 'conv1_3', the stem's,
        of stride 2 ('conv1' of V1b); 'b1u2c3', what the third convolution of block 1's unit 2 and its normalisation put
        out, before shortcut and ReLU ('c2' in networks of basic blocks). The names are DeepLab's, shortened.
      frozen_norm: BatchNorm keeps the running statistics, scales and biases that it starts from, also in training.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a depth, variant, output stride, multi-grid or output that does not exist.
    """

    depth: int = 50
    variant: str = "v1c"
    output_stride: int = 8
    width: int = 64
    multi_grid: tuple[int, ...] | None = None
    outputs: tuple[str, ...] = STAGES
    frozen_norm: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        for name, value, known in (
            ("depth", self.depth, tuple(BLOCKS)),
            ("variant", self.variant, VARIANTS),
            ("output_stride", self.output_stride, tuple(STRIDES)),
        ):
            if value not in known:
                raise ValueError(f"ResNet {name} is {value!r}; expected one of {', '.join(map(str, known))}.")
        if self.width < 1 or (self.width % 2 and self.variant != "v1b"):
            raise ValueError(
                f"ResNet width is {self.width}; expected a positive even number (half of it is the stem's)."
            )
        if self.multi_grid is not None:
            self.multi_grid = tuple(self.multi_grid)
            blocks = BLOCKS[self.depth][3]
            if len(self.multi_grid) < blocks:
                raise ValueError(
                    f"ResNet multi_grid is {self.multi_grid}; expected a dilation for each of the {blocks} blocks "
                    f"of the last stage of depth {self.depth}."
                )
        self.outputs = tuple(self.outputs)
        if unknown := [name for name in self.outputs if name not in self._widths()]:
            raise ValueError(
                f"ResNet outputs names {', '.join(unknown)}; {self.variant} of depth {self.depth} has "
                f"{', '.join(self._widths())}."
            )
        super().__post_init__()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps that are handed out."""
        return tuple(self._widths()[name] for name in self.outputs)

    @property
    def _convolutions(self) -> int:
        """Convolutions in a block's branch."""
        return 3 if self.depth in BOTTLENECK_DEPTHS else 2

    @property
    def _stem_width(self) -> int:
        return 2 * self.width if self.variant == "beta" else self.width

    @property
    def _stem_name(self) -> str:
        return "conv1" if self.variant == "v1b" else "conv1_3"

    def _widths(self) -> dict[str, int]:
        """Channels of every map that can be handed out."""
        expansion = BOTTLENECK_EXPANSION if self.depth in BOTTLENECK_DEPTHS else 1
        widths = {self._stem_name: self._stem_width}
        for stage, blocks in enumerate(BLOCKS[self.depth]):
            width = self.width * expansion * 2**stage
            widths |= {f"b{stage + 1}u{unit + 1}c{self._convolutions}": width for unit in range(blocks)}
            widths[STAGES[stage]] = width
        return widths

    @nn.compact
    def __call__(self, x, train: bool = False):
        maps = {self._stem_name: self._stem(x, train)}
        x = max_pool(maps[self._stem_name])
        block = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        for stage, dilations in enumerate(self._dilations()):
            last = len(dilations) - 1
            strided = last if self.variant == "beta" else 0
            for index, dilation in enumerate(dilations):
                if self.variant == "beta" and stage < 3 and index == last:
                    maps[STAGES[stage]] = x
                branch = f"b{stage + 1}u{index + 1}c{self._convolutions}"
                x = block(
                    self.width * 2**stage,
                    bottleneck=self.depth in BOTTLENECK_DEPTHS,
                    strides=self._strides()[stage] if index == strided else 1,
                    dilation=dilation,
                    average_shortcut=self.variant == "v1d",
                    plain_shortcut=self.variant == "beta",
                    with_branch=branch in self.outputs,
                    norm=self._norm,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
                if branch in self.outputs:
                    x, maps[branch] = x
            maps.setdefault(STAGES[stage], x)
        return tuple(maps[name] for name in self.outputs)

    @property
    def _norm(self) -> str:
        return "frozen" if self.frozen_norm else "batch"

    def _stem(self, x, train: bool):
        common = {"norm": self._norm, "dtype": self.dtype}
        if self.variant == "v1b":
            return ConvBlock(self.width, 7, strides=2, **common, name="stem_0")(x, train)
        narrow = self._stem_width // 2
        x = ConvBlock(narrow, 3, strides=2, **common, name="stem_0")(x, train)
        x = ConvBlock(narrow, 3, **common, name="stem_1")(x, train)
        return ConvBlock(self._stem_width, 3, **common, name="stem_2")(x, train)

    def _strides(self) -> tuple[int, ...]:
        """The stride of every stage, which its first block has or, of 'beta', its last."""
        strides = STRIDES[self.output_stride]
        return (*strides[1:], 1) if self.variant == "beta" else strides

    def _dilations(self) -> list[tuple[int, ...]]:
        """The dilation of every block, by stage."""
        stages = []
        for blocks, dilation in zip(BLOCKS[self.depth], DILATIONS[self.output_stride], strict=True):
            first = dilation if self.variant == "beta" else max(dilation // 2, 1)
            stages.append((first, *[dilation] * (blocks - 1)))
        if self.multi_grid is not None:
            stages[-1] = self.multi_grid[: len(stages[-1])]
        return stages
