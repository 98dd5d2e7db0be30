"""EfficientNet (https://arxiv.org/abs/1905.11946), EfficientNet-Lite, and the fused form of ESeg-Lite (2203.12683).

Numerically Google's efficientnet_model.py (timm's `tf_efficientnet_b*`, `tf_efficientnet_lite*`), or with symmetric
padding torchvision's and timm's own `efficientnet_b*`; without the head convolution and the classifier. Submodules have
timm's names. EfficientNet-Lite is in no paper: sizes and rules are those of google/efficientnet's
efficientnet_lite_builder.py.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.attention import DropPath
from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.initializers import kaiming_normal
from se_jax.models.layers import BatchNorm, Conv, adaptive_avg_pool

VARIANTS = {
    "b0": {"width": 1.0, "depth": 1.0, "drop_path": 0.2},
    "b1": {"width": 1.0, "depth": 1.1, "drop_path": 0.2},
    "b2": {"width": 1.1, "depth": 1.2, "drop_path": 0.2},
    "b3": {"width": 1.2, "depth": 1.4, "drop_path": 0.2},
    "b4": {"width": 1.4, "depth": 1.8, "drop_path": 0.2},
    "b5": {"width": 1.6, "depth": 2.2, "drop_path": 0.2},
    "b6": {"width": 1.8, "depth": 2.6, "drop_path": 0.2},
    "b7": {"width": 2.0, "depth": 3.1, "drop_path": 0.2},
    "lite0": {"width": 1.0, "depth": 1.0, "drop_path": 0.2},
    "lite1": {"width": 1.0, "depth": 1.1, "drop_path": 0.2},
    "lite2": {"width": 1.1, "depth": 1.2, "drop_path": 0.2},
    "lite3": {"width": 1.2, "depth": 1.4, "drop_path": 0.2},
    "lite4": {"width": 1.4, "depth": 1.8, "drop_path": 0.2},
}  # multipliers of B0's channels and blocks, and the drop path rate
LITE = "lite"  # how the variants begin whose blocks have no squeeze and excitation, and ReLU6
STEM_CHANNELS = 32
SQUEEZE = 4  # a block's channels by those of its squeeze
MOMENTUM = 0.01  # TensorFlow's
EPSILONS = {"same": 1e-3, "symmetric": 1e-5}  # TensorFlow's and PyTorch's, each with the padding it comes with


class Stage(NamedTuple):
    """A stage of blocks that differ in their number of inputs and their strides only."""

    expansion: int
    kernel_size: int
    strides: int  # of the first block
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)  # of B0
OUTPUTS = (1, 2, 4, 6)  # stages before a stride, and the last


class Style(NamedTuple):
    """What all layers of a network share."""

    same_padding: bool
    epsilon: float
    activation: Callable
    dtype: Any
    momentum: float = MOMENTUM
    squeeze: bool = True


def round_channels(channels: float) -> int:
    """To the nearest multiple of 8, but up where that would lose more than a tenth; Google's `round_filters`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def pad_same(x, kernel_size: int, strides: int):
    """Prepares TensorFlow's "SAME" padding: (x, padding) for a convolution that pads `padding` zeros on every side.

    An even length under stride 2 gets one zero less at its start than at its end; then x comes back padded.
    """
    totals = [max((-(-length // strides) - 1) * strides + kernel_size - length, 0) for length in x.shape[1:3]]
    if all(total == kernel_size - 1 for total in totals):
        return x, kernel_size // 2
    rows, columns = ((total // 2, total - total // 2) for total in totals)
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0))), 0


def conv_norm(
    x, train: bool, names: tuple[str, str], features: int, kernel_size=1, strides=1, *, style: Style, groups=1, act=True
):
    """Convolution without bias, BatchNorm and activation as two submodules of the caller, called `names`."""
    padding = kernel_size // 2
    if style.same_padding:
        x, padding = pad_same(x, kernel_size, strides)
    x = Conv(
        features,
        kernel_size,
        strides=strides,
        padding=padding,
        groups=groups,
        # TensorFlow counts one output a channel of a depthwise kernel
        kernel_init=kaiming_normal if groups == 1 else nn.initializers.normal(math.sqrt(2) / kernel_size),
        dtype=style.dtype,
        name=names[0],
    )(x)
    x = BatchNorm(style.epsilon, style.momentum, dtype=style.dtype, name=names[1])(x, train)
    return style.activation(x) if act else x


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate between 0 and 1 that sees the map's means: [b, h, w, c] -> [b, h, w, c].

    Attributes:
      squeezed: channels between the two 1x1 convolutions.
    """

    squeezed: int
    style: Style

    @nn.compact
    def __call__(self, x):
        dtype = self.style.dtype
        gate = adaptive_avg_pool(x, 1)
        gate = Conv(self.squeezed, 1, use_bias=True, dtype=dtype, name="conv_reduce")(gate)
        gate = Conv(x.shape[-1], 1, use_bias=True, dtype=dtype, name="conv_expand")(self.style.activation(gate))
        return x * nn.sigmoid(gate)


class _Block(nn.Module):
    features: int
    expansion: int
    kernel_size: int
    strides: int
    drop_path: float
    style: Style

    def _has_shortcut(self, x) -> bool:
        return self.strides == 1 and x.shape[-1] == self.features


class MBConv(_Block):
    """Inverted bottleneck: [b, h, w, c] -> [b, ceil(h / strides), ceil(w / strides), features].

    1x1 expansion, depthwise convolution, squeeze and excitation (where the style has it), 1x1 projection without
    activation; where shapes allow, added to the input. Without an expansion (factor 1) the first is left out. The
    squeeze is a quarter of the *input's* channels.
    """

    @nn.compact
    def __call__(self, x, train: bool = False):
        y, norms = x, iter(("bn1", "bn2", "bn3"))
        style, hidden = self.style, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = conv_norm(y, train, ("conv_pw", next(norms)), hidden, style=style)
        window = (self.kernel_size, self.strides)
        y = conv_norm(y, train, ("conv_dw", next(norms)), hidden, *window, style=style, groups=hidden)
        if style.squeeze:
            y = SqueezeExcite(max(1, x.shape[-1] // SQUEEZE), style, name="se")(y)
        last = "conv_pwl" if self.expansion > 1 else "conv_pw"
        y = conv_norm(y, train, (last, next(norms)), self.features, style=style, act=False)
        return x + DropPath(self.drop_path)(y, train) if self._has_shortcut(x) else y


class FusedMBConv(_Block):
    """MBConv whose expansion and depthwise convolution are one dense convolution, without squeeze and excitation.

    Without an expansion it is that one convolution with its activation, as EfficientNetV2's
    (https://arxiv.org/abs/2104.00298). Shapes and attributes are those of MBConv.
    """

    @nn.compact
    def __call__(self, x, train: bool = False):
        window = (self.kernel_size, self.strides)
        if self.expansion == 1:
            y = conv_norm(x, train, ("conv", "bn1"), self.features, *window, style=self.style)
        else:
            hidden = x.shape[-1] * self.expansion
            y = conv_norm(x, train, ("conv_exp", "bn1"), hidden, *window, style=self.style)
            y = conv_norm(y, train, ("conv_pwl", "bn2"), self.features, style=self.style, act=False)
        return x + DropPath(self.drop_path)(y, train) if self._has_shortcut(x) else y


class EfficientNet(nn.Module):
    """EfficientNet encoder: image [b, h, w, 3] -> maps P2, P3, P4, P5 [b, h/s, w/s, c] of strides 4, 8, 16, 32.

    Odd sizes are rounded up. A map is the output of the last block before a stride; no head convolution.

    | weights | padding | epsilon |
    | --- | --- | --- |
    | Google's, timm `tf_efficientnet_b*`, `tf_efficientnet_lite*` | "same" | 1e-3 |
    | timm `efficientnet_b*`, torchvision b0..b4 | "symmetric" | 1e-5 |
    | torchvision b5..b7 | "symmetric" | 1e-3, to be given |

    Attributes:
      variant: 'b0' .. 'b7', or 'lite0' .. 'lite4': no squeeze and excitation, ReLU6, and a stem and numbers of blocks
        in the first and the last stage that are B0's in all sizes.
      width, depth: multipliers of B0's channels (rounded to multiples of 8) and blocks (rounded up); by default the
        variant's.
      drop_path: rate of stochastic depth; 0.2 by default. Block i of n has rate i / n of it.
      fused: ESeg-Lite's form of 'b0' .. 'b7': FusedMBConv in every block, no squeeze and excitation, ReLU instead of
        SiLU.
      padding: 'same' as TensorFlow (under stride 2, zeros depend on the size's parity) or 'symmetric' as PyTorch.
      epsilon: of BatchNorm; by default the one that comes with the padding.
      momentum: share by which BatchNorm's running statistics move; 0.01 needs thousands of steps, and 0.1, which is
        PyTorch's, hundreds.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant or padding that does not exist, a fused form of 'lite', multipliers that are not
        positive, a drop path rate outside [0, 1), a momentum outside (0, 1].
    """

    variant: str = "b0"
    width: float | None = None
    depth: float | None = None
    drop_path: float | None = None
    fused: bool = False
    padding: str = "same"
    epsilon: float | None = None
    momentum: float = MOMENTUM
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        sizes = self.sizes
        if self.padding not in EPSILONS:
            raise ValueError(f"EfficientNet padding is {self.padding!r}; expected one of {', '.join(EPSILONS)}.")
        if self.fused and self.lite:
            raise ValueError(
                f"EfficientNet fused is True with variant {self.variant!r}; expected one of b0 to b7: "
                "EfficientNet-Lite has blocks of its own"
            )
        for name in ("width", "depth"):
            if not getattr(sizes, name) > 0:
                raise ValueError(f"EfficientNet {name} is {getattr(sizes, name)}; expected a positive multiplier.")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"EfficientNet momentum is {self.momentum}; expected a share in (0, 1].")
        if not 0 <= sizes.drop_path < 1:
            raise ValueError(f"EfficientNet drop_path is {sizes.drop_path}; expected a rate in [0, 1).")
        super().__post_init__()

    @property
    def sizes(self):
        """The variant's width, depth and drop_path, with the fields that were given in their place."""
        return variant_sizes(self, VARIANTS)

    @property
    def lite(self) -> bool:
        """Whether this is an EfficientNet-Lite."""
        return self.variant.startswith(LITE)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The seven stages of this size."""
        width, depth = self.sizes.width, self.sizes.depth
        fixed = (STAGES[0], STAGES[-1]) if self.lite else ()
        return tuple(
            stage._replace(
                channels=round_channels(stage.channels * width),
                blocks=math.ceil(stage.blocks * (1.0 if stage in fixed else depth)),
            )
            for stage in STAGES
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(self.stages[i].channels for i in OUTPUTS)

    @nn.compact
    def __call__(self, x, train: bool = False):
        style = Style(
            same_padding=self.padding == "same",
            epsilon=EPSILONS[self.padding] if self.epsilon is None else self.epsilon,
            activation=nn.relu if self.fused else nn.relu6 if self.lite else nn.silu,
            dtype=self.dtype,
            momentum=self.momentum,
            squeeze=not self.lite,
        )
        stem = STEM_CHANNELS if self.lite else round_channels(STEM_CHANNELS * self.sizes.width)
        x = conv_norm(x, train, ("conv_stem", "bn1"), stem, 3, 2, style=style)
        block = FusedMBConv if self.fused else MBConv
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))
        done, total = 0, sum(stage.blocks for stage in self.stages)
        maps = []
        for i, stage in enumerate(self.stages):
            for j in range(stage.blocks):
                x = block(
                    stage.channels,
                    stage.expansion,
                    stage.kernel_size,
                    stage.strides if j == 0 else 1,
                    # Google's, timm's and torchvision's rule; the last block stays below the full rate
                    drop_path=self.sizes.drop_path * done / total,
                    style=style,
                    name=f"blocks_{i}_{j}",
                )(x, train)
                done += 1
            maps.append(x)
        return tuple(maps[i] for i in OUTPUTS)
