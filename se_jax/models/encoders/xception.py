"""DeepLab's modified aligned Xception (https://arxiv.org/abs/1802.02611; Xception: https://arxiv.org/abs/1610.02357).

Numerically core/xception.py of DeepLab (tensorflow/models), whose weights timm's `xception41`, `xception65` and
`xception71` hold; without pooling and classifier. Submodules have timm's names.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.encoders.variants import variant_sizes
from se_jax.models.layers import BatchNorm, Conv

_EXIT = ((728, 1024, 1024), (1536, 1536, 2048))
_ENTRY = ((128, 2), (256, 2), (728, 2))
VARIANTS = {
    "41": {"entry": _ENTRY, "middle": 8, "exit": _EXIT},
    "65": {"entry": _ENTRY, "middle": 16, "exit": _EXIT},
    "71": {"entry": ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), "middle": 16, "exit": _EXIT},
}  # channels and stride of the entry flow's units, number of the middle flow's, channels of the exit flow's
STEM = (32, 64)
OUTPUT_STRIDES = (8, 16, 32)
MAPS = ("map0", "map1", "map2", "map3")  # that are handed out by default
EPSILON = 1e-3
# jax's truncated normal is TensorFlow's: cut at two standard deviations, and not widened to make up for it
deeplab_normal = nn.initializers.truncated_normal(0.09)


class ConvNorm(nn.Module):
    """Convolution without bias and BatchNorm: [b, h, w, c] -> [b, ceil(h / strides), ceil(w / strides), features]."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        conv = Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            kernel_init=deeplab_normal,
            dtype=self.dtype,
            name="conv",
        )
        return BatchNorm(EPSILON, dtype=self.dtype, name="bn")(conv(x), train)


class SeparableConv(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with BatchNorm: [b, h, w, c] -> [b, ceil(h / s), ceil(w / s), features].

    Attributes:
      activate: a ReLU behind each of the two BatchNorms; without it there is none, also not between them.
    """

    features: int
    strides: int = 1
    dilation: int = 1
    activate: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        options = {"kernel_init": deeplab_normal, "dtype": self.dtype}
        geometry = {"strides": self.strides, "dilation": self.dilation, "groups": x.shape[-1]}
        x = Conv(x.shape[-1], 3, **geometry, **options, name="conv_dw")(x)
        x = BatchNorm(EPSILON, dtype=self.dtype, name="bn_dw")(x, train)
        x = nn.relu(x) if self.activate else x
        x = Conv(self.features, 1, **options, name="conv_pw")(x)
        x = BatchNorm(EPSILON, dtype=self.dtype, name="bn_pw")(x, train)
        return nn.relu(x) if self.activate else x


class XceptionUnit(nn.Module):
    """Three separable convolutions, the last with the stride, and a shortcut: DeepLab's xception_module.

    Attributes:
      features: channels of the three.
      skip: 'conv' (1x1 convolution and BatchNorm of the input), 'sum' (the input) or 'none' is added to the result.
      activate_inside: False puts a ReLU in front of each separable convolution, True puts two inside.
      dilations: of the three.

    Returns:
      ([b, ceil(h / strides), ceil(w / strides), features[2]], the outputs of the three).
    """

    features: tuple[int, int, int]
    skip: str
    strides: int = 1
    dilations: tuple[int, int, int] = (1, 1, 1)
    activate_inside: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = [x]
        for i, (features, dilation) in enumerate(zip(self.features, self.dilations, strict=True)):
            conv = SeparableConv(
                features,
                strides=self.strides if i == 2 else 1,
                dilation=dilation,
                activate=self.activate_inside,
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )
            y = outputs[-1] if self.activate_inside else nn.relu(outputs[-1])
            outputs.append(conv(y, train))
        _, *outputs = outputs
        y = outputs[-1]
        if self.skip == "conv":
            x = ConvNorm(self.features[2], strides=self.strides, dtype=self.dtype, name="shortcut")(x, train)
        return (y if self.skip == "none" else x + y), tuple(outputs)


class Xception(nn.Module):
    """Xception encoder: image [b, h, w, 3] -> maps [b, h/s, w/s, c], finest first; odd sizes are rounded up.

    By default there are four:

    | map | stride | channels | what it is, in DeepLab's names |
    | --- | --- | --- | --- |
    | 0 | 4 | 256 | entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise (block3 in Xception-71) |
    | 1 | 8 | 728 | entry_flow/block3/unit_1/xception_module/separable_conv2_pointwise (block5 in Xception-71) |
    | 2 | 16 | 728 | middle_flow/block1: the last unit's output, its shortcut added |
    | 3 | 32 | 2048 | exit_flow/block2: the encoder's last map |

    Maps 0 and 1 come from inside the unit: behind the second separable convolution's last BatchNorm, before any ReLU,
    the strided third convolution and the shortcut. They are the low-level features of DeepLabv3+. Map 0 is
    DUpsampling's `efb2u1c2`; map 2 is its `mfb1u16c3` with the shortcut added. Only map 3 has passed a ReLU.

    Attributes:
      variant: '41', '65' or '71'.
      output_stride: 8, 16 or 32, the stride of the last map, and the most that map 2 has. A unit that would exceed it
        keeps stride 1, and the *following* depthwise convolutions are dilated instead.
      multi_grid: factors of the dilation of the last unit's three depthwise convolutions; None is (1, 1, 1).
      entry: (channels, stride) of the entry flow's units, three of them with stride 2. middle: number of the middle
        flow's units. exit: the three widths of each of the exit flow's two units. By default the variant's.
      outputs: names of the maps to hand out, in this order: 'map0' to 'map3' are the four above; 'efb2u1c2' is what the
        second separable convolution of the entry flow's block 2 puts out, 'mfb1u16c3' the third of the middle flow's
        unit 16, both before a ReLU or a shortcut. The names are DeepLab's, shortened.
      remat: recompute each unit in the backward pass instead of keeping its activations.

    Raises:
      ValueError: for a variant, output or output stride that does not exist, a multi-grid that is not three positive
        numbers, an entry flow whose stride is not 8.
    """

    variant: str = "65"
    output_stride: int = 16
    multi_grid: tuple[int, int, int] | None = None
    entry: tuple[tuple[int, int], ...] | None = None
    middle: int | None = None
    exit: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    outputs: tuple[str, ...] = MAPS
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        for name in ("entry", "exit"):
            if getattr(self, name) is not None:  # a list, as from a file, would not hash
                setattr(self, name, tuple(map(tuple, getattr(self, name))))
        strides = [stride for _, stride in self.sizes.entry]
        if sorted(strides) != [1] * (len(strides) - 3) + [2, 2, 2]:
            raise ValueError(f"Xception entry has strides {strides}; expected three times 2, and 1 elsewhere.")
        if self.output_stride not in OUTPUT_STRIDES:
            known = ", ".join(map(str, OUTPUT_STRIDES))
            raise ValueError(f"Xception output_stride is {self.output_stride}; expected one of {known}.")
        if self.multi_grid is not None:
            grid = tuple(self.multi_grid)
            if len(grid) != 3 or min(grid) < 1:
                raise ValueError(f"Xception multi_grid is {grid}; expected three positive numbers.")
            self.multi_grid = grid
        self.outputs = tuple(self.outputs)
        if unknown := [name for name in self.outputs if name not in self._widths()]:
            known = ", ".join(self._widths())
            raise ValueError(f"Xception outputs names {', '.join(unknown)}; variant {self.variant} has {known}.")
        super().__post_init__()

    @property
    def sizes(self):
        """The variant's entry, middle and exit flow, with the fields that were given in their place."""
        return variant_sizes(self, VARIANTS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps that are handed out."""
        return tuple(self._widths()[name] for name in self.outputs)

    def _widths(self) -> dict[str, int]:
        """Channels of every map that can be handed out."""
        entry = self.sizes.entry
        strided = [width for width, stride in entry if stride == 2]
        widths = dict(zip(MAPS, (*strided[1:], entry[-1][0], self.sizes.exit[1][2]), strict=True))
        of_units = [width for width, _ in entry] + [entry[-1][0]] * self.sizes.middle
        units = zip(self._names(), of_units, strict=True)
        return widths | {f"{name}c{conv}": width for name, width in units for conv in (1, 2, 3)}

    def _names(self) -> list[str]:
        """DeepLab's names of the units of the entry flow, where each is a block, and of the middle flow."""
        entry = [f"efb{block + 1}u1" for block in range(len(self.sizes.entry))]
        return entry + [f"mfb1u{unit + 1}" for unit in range(self.sizes.middle)]

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i, features in enumerate(STEM):
            x = ConvNorm(features, 3, strides=2 - i, dtype=self.dtype, name=f"stem_{i}")(x, train)
            x = nn.relu(x)
        unit = nn.remat(XceptionUnit, static_argnums=(2,)) if self.remat else XceptionUnit
        units = self._units()
        middle_end = len(units) - len(self.sizes.exit)
        maps = {}
        for i, options in enumerate(units):
            x, outputs = unit(**options, dtype=self.dtype, name=f"blocks_{i}")(x, train)
            if i < middle_end:
                maps |= {f"{self._names()[i]}c{conv}": output for conv, output in enumerate(outputs, 1)}
            if i == middle_end - 1:
                maps["map2"] = x
        _, *strided = [i for i, (_, stride) in enumerate(self.sizes.entry) if stride == 2]
        maps |= {name: maps[f"{self._names()[i]}c2"] for name, i in zip(MAPS, strided, strict=False)} | {"map3": x}
        return tuple(maps[name] for name in self.outputs)

    def _units(self) -> list[dict]:
        """The options of every unit, with strides beyond the output stride turned into dilations."""
        sizes, (first, last) = self.sizes, self.sizes.exit
        units = [{"features": (width,) * 3, "strides": stride, "skip": "conv"} for width, stride in sizes.entry]
        units += [{"features": (sizes.entry[-1][0],) * 3, "strides": 1, "skip": "sum"}] * sizes.middle
        units += [{"features": first, "strides": 2, "skip": "conv"}]
        units += [{"features": last, "strides": 1, "skip": "none", "activate_inside": True}]
        stride, dilation, adapted = 2, 1, []
        for unit in units:
            adapted.append(unit | {"dilations": (dilation,) * 3})
            if stride * unit["strides"] > self.output_stride:
                adapted[-1]["strides"] = 1
                dilation *= unit["strides"]
            else:
                stride *= unit["strides"]
        adapted[-1]["dilations"] = tuple(dilation * factor for factor in self.multi_grid or (1, 1, 1))
        return adapted
