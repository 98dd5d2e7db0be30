"""BiFPN: a feature pyramid fused top-down and bottom-up, several times over, with learnt weights.

Source: Tan et al., "EfficientDet", CVPR 2020 (https://arxiv.org/abs/1911.09070), as google/automl builds it:
efficientdet/tf2/fpn_configs.py (the graph) and efficientdet_keras.py (the layers). Level P_l has strides 2^l; a level's
size is half of the one below, rounded up (TensorFlow's "SAME").
"""

import itertools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from se_jax.equalizer.fusion import WEIGHTINGS, Equalizer, Fusion
from se_jax.models.layers import UPSAMPLES, BatchNorm, Conv, max_pool, resize_nearest

FUSIONS = ("sum", *WEIGHTINGS)
ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu}
ENCODER_TOP = 5  # the level of an encoder's last map, of stride 32
EPSILON, MOMENTUM = 1e-3, 0.01  # of every BatchNorm, TensorFlow's


class Node(NamedTuple):
    """One fusion of a cell.

    Attributes:
      level: of its output.
      inputs: what it fuses, by number: the cell's inputs come first, finest first, then its nodes.
    """

    level: int
    inputs: tuple[int, ...]


def graph(lowest: int, highest: int) -> tuple[Node, ...]:
    """The nodes of a cell over levels `lowest` .. `highest`, in order: down from highest - 1, then up from lowest + 1.

    A node takes the input of its level, on the way up also the level's node of the way down, and last the level beside
    it, coarser on the way down and finer on the way up. A level's last node is the cell's output there.
    """
    found = {level: [number] for number, level in enumerate(range(lowest, highest + 1))}
    numbers, nodes = itertools.count(len(found)), []
    for level in range(highest - 1, lowest - 1, -1):
        nodes.append(Node(level, (*found[level], found[level + 1][-1])))
        found[level].append(next(numbers))
    for level in range(lowest + 1, highest + 1):
        nodes.append(Node(level, (*found[level], found[level - 1][-1])))
        found[level].append(next(numbers))
    return tuple(nodes)


def max_pool_same(x):
    """3x3 max pooling of stride 2 with TensorFlow's padding: [b, h, w, c] -> [b, ceil(h / 2), ceil(w / 2), c].

    An even length is padded at its end only, where PyTorch's pads its start only. With one more row of padding in front
    it is odd, and these are the windows behind PyTorch's first.
    """
    even = [1 - length % 2 for length in x.shape[1:3]]
    if any(even):
        x = jnp.pad(x, ((0, 0), (even[0], 0), (even[1], 0), (0, 0)), constant_values=-jnp.inf)
    return max_pool(x)[:, even[0] :, even[1] :]


def avg_pool_same(x):
    """The same with means, of the pixels inside the map."""
    return nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)


DOWNSAMPLES = {"max": max_pool_same, "average": avg_pool_same}


class Resample(nn.Module):
    """1x1 convolution with bias and BatchNorm, without an activation: [b, h, w, c] -> [b, h, w, features]."""

    features: int
    momentum: float = MOMENTUM
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="conv")(x)
        return BatchNorm(EPSILON, self.momentum, dtype=self.dtype, name="bn")(x, train)


class SeparableOp(nn.Module):
    """EfficientDet's order: activation, depthwise-separable 3x3 convolution with bias, BatchNorm. Keeps the shape."""

    activation: str = "silu"
    momentum: float = MOMENTUM
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        channels = x.shape[-1]
        x = ACTIVATIONS[self.activation](x)
        x = Conv(channels, 3, groups=channels, dtype=self.dtype, name="depthwise")(x)
        x = Conv(channels, 1, use_bias=True, dtype=self.dtype, name="pointwise")(x)
        return BatchNorm(EPSILON, self.momentum, dtype=self.dtype, name="bn")(x, train)


class BiFPN(nn.Module):
    """Maps P_lowest .. P5 of an encoder -> maps [b, h_l, w_l, channels] of the levels `lowest` .. `top_level`.

    Levels above P5 are made by pooling, after P5 was brought to `channels`. A node fuses, then comes a SeparableOp. In
    the first cell a map of other channels is brought to `channels` by a Resample of its own for every use. Fusion
    sites: 'extra', the levels above P5; in cell i, counted from 0, 'topdown_i_l' and 'bottomup_i_l' at level l.

    Attributes:
      repeats: cells, each with weights of its own.
      fusion: 'sum', or a sum with learnt weights: 'fast', 'softmax', 'channel_fast', 'channel_softmax'.
      upsample: 'bilinear', or 'nearest', which is EfficientDet's.
      downsample: 'max' or 'average' pooling, 3x3 with stride 2.
      activation: 'silu' or 'relu'.
      momentum: share by which BatchNorm's running statistics move.

    Raises:
      ValueError: for another fusion, resampling or activation, a momentum outside (0, 1], no cell, a top level below
        P5, or maps that are not P_lowest .. P5, each half the size of the one before.
    """

    channels: int
    repeats: int
    lowest: int = 2
    top_level: int = 9
    fusion: str = "channel_softmax"
    upsample: str = "bilinear"
    downsample: str = "max"
    activation: str = "silu"
    momentum: float = MOMENTUM
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: Any = jnp.float32

    def __post_init__(self):
        known = {"fusion": FUSIONS, "upsample": UPSAMPLES, "downsample": DOWNSAMPLES, "activation": ACTIVATIONS}
        for field, values in known.items():
            if (value := getattr(self, field)) not in values:
                raise ValueError(f"BiFPN {field} is {value!r}; expected one of {', '.join(values)}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"BiFPN momentum is {self.momentum}; expected a share in (0, 1]")
        if self.repeats < 1:
            raise ValueError(f"BiFPN repeats is {self.repeats}; expected at least 1 cell")
        if self.top_level < ENCODER_TOP:
            raise ValueError(
                f"BiFPN top_level is {self.top_level}; expected at least {ENCODER_TOP}, that of the encoder's last map"
            )
        super().__post_init__()

    @property
    def _levels(self) -> range:
        return range(self.lowest, self.top_level + 1)

    def _nodes(self) -> list[tuple[str, Node]]:
        """(direction, node) of a cell."""
        nodes = graph(self.lowest, self.top_level)
        return [("topdown" if i < len(nodes) // 2 else "bottomup", node) for i, node in enumerate(nodes)]

    @nn.compact
    def __call__(self, features, train: bool = False):
        self._check(features)
        levels = self._extend(features, train)
        for cell in range(self.repeats):
            levels = self._cell(cell, levels, train)
        return levels

    def _check(self, features) -> None:
        sizes = [x.shape[1:3] for x in features]
        halved = all(
            short in (long // 2, -(-long // 2))  # encoders round down or up
            for finer, coarser in itertools.pairwise(sizes)
            for long, short in zip(finer, coarser, strict=True)
        )
        if len(sizes) != ENCODER_TOP - self.lowest + 1 or not halved:
            strides = ", ".join(str(2**level) for level in range(self.lowest, ENCODER_TOP + 1))
            raise ValueError(
                f"BiFPN takes maps of strides {strides}, each half the size of the one before; got maps of "
                f"{', '.join(f'{h}x{w}' for h, w in sizes)}. Use an encoder with output_stride=32"
            )

    def _site(self, name: str, operation: str) -> Fusion:
        return Fusion(self.equalizer, operation, self.align_corners, default=False, dtype=self.dtype, name=name)

    def _resample(self, x, level: int, use: int, train: bool):
        """A map brought to `channels`; `use` counts how often the level was used before."""
        if x.shape[-1] == self.channels:
            return x
        return Resample(self.channels, self.momentum, self.dtype, name=f"resample_{level}_{use}")(x, train)

    def _extend(self, features, train: bool) -> list:
        """The maps of all levels."""
        x, extra = features[-1], {}
        for level in range(ENCODER_TOP + 1, self.top_level + 1):
            x = DOWNSAMPLES[self.downsample](self._resample(x, level, 0, train))
            extra[f"p{level}"] = x
        made: Any = self._site("extra", "identity")(extra) if extra else {}
        return [*features, *made.values()]

    def _cell(self, cell: int, levels: list, train: bool) -> list:
        maps, last = list(levels), {}
        of = list(self._levels)  # the level of each map
        uses = dict.fromkeys(of, 0)
        for number, (direction, node) in enumerate(self._nodes()):
            size = levels[node.level - self.lowest].shape[1:3]
            branches = {}
            for i in node.inputs:
                x = self._resample(maps[i], of[i], uses[of[i]], train)
                uses[of[i]] += x is not maps[i]
                if of[i] > node.level:
                    branches["coarser"] = resize_nearest(x, size) if self.upsample == "nearest" else x
                elif of[i] < node.level:  # cut where the encoder rounds down
                    branches["finer"] = DOWNSAMPLES[self.downsample](x)[:, : size[0], : size[1]]
                else:
                    branches["topdown" if branches else "lateral"] = x
            x = self._site(f"{direction}_{cell}_{node.level}", self.fusion)(branches, size)
            x = SeparableOp(self.activation, self.momentum, self.dtype, name=f"node_{cell}_{number}")(x, train)
            maps.append(x)
            of.append(node.level)
            last[node.level] = x
        return [last[level] for level in self._levels]
