"""Fusion of feature maps from several depths, with scale equalizers.

The paper: Kim & Kim, "Scale Equalization for Multi-Level Feature Fusion", TMLR 2024 (arXiv 2402.01149). Bilinear
upsampling shrinks the variance of a feature map, so branches that were upsampled by different factors meet on
different scales. A scale equalizer maps a branch x to (x - mean) / std, with constants measured once over the target
data set.

Every decoder fuses its branches here: `Fusion` resizes, equalizes and concatenates or sums, also with learnt weights;
`FusionConv` is a fusion and the padded convolution block behind it as one unit, because only together can an equalizer
be folded into weights: where the convolution pads the *equalized* map with zeros, the raw map would have to be padded
with the branch's mean.
"""

import dataclasses
import fnmatch
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_jax.models.initializers import kaiming_normal
from se_jax.models.layers import (
    UPSAMPLES,
    ChannelDropout,
    ConvBlock,
    GroupNorm,
    SeparableConvBlock,
    resize,
    resize_nearest,
)

MODES = ("none", "explicit", "folded")
STATISTICS = ("global", "channel")
# Sums with learnt weights (EfficientDet's, https://arxiv.org/abs/1911.09070, and google/automl's further ones): one
# weight a branch, or a channel of a branch, made non-negative and normalised over the branches
WEIGHTINGS = ("fast", "softmax", "channel_fast", "channel_softmax")
OPERATIONS = ("concat", "sum", "identity", *WEIGHTINGS)
FAST_EPSILON = 1e-4
LEARNT_WEIGHTS = {"fast_weights": "fast", "softmax_weights": "softmax"}  # parameter -> how it is normalised
BRANCH_NORM = "branch_norm"  # of the first branch of a NormedSumConv
LAST_BLOCK = "last_"  # and a branch's name: its last convolution block in a BlockSumConv
CONSTANT_WEIGHTS = "weights"  # the parameter in their place once they are folded, see `equalizer.fold.fold_weights`


@dataclasses.dataclass(frozen=True)
class Equalizer:
    """Which fusion sites are equalized, and how.

    Attributes:
      mode: 'none'; 'explicit' normalises at run time with frozen statistics (the collection `equalizer`); 'folded'
        expects them in the weights of the convolution behind the site (see `se_jax.equalizer.fold`) and computes
        nothing at run time but a border term.
      statistics: 'global' is one mean and std a branch, as in the paper; 'channel' is one a channel.
      sites: names of the sites to equalize, or patterns of them, e.g. 'topdown_*'; None means those that the head
        equalizes by default.

    Raises:
      ValueError: for an unknown mode or kind of statistics.
    """

    mode: str = "none"
    statistics: str = "global"
    sites: tuple[str, ...] | None = None

    def __post_init__(self):
        for field, allowed in (("mode", MODES), ("statistics", STATISTICS)):
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"equalizer.{field} is {value!r}; expected one of {', '.join(allowed)}")

    def selects(self, site: str, default: bool) -> bool:
        """Whether `site` is equalized at all, in whatever mode; `default` says if it is where no sites were named."""
        if self.mode == "none":
            return False
        return default if self.sites is None else any(fnmatch.fnmatchcase(site, name) for name in self.sites)


def branch_key(index: int, name: str) -> str:
    """Key of a branch among a site's variables; its number keeps the order of the branches in sorted dicts."""
    return f"{index}_{name}"


def branch_name(key: str) -> str:
    """The inverse of `branch_key`."""
    return key.partition("_")[2]


def ordered_branches(site: dict[str, Any]) -> list[tuple[str, Any]]:
    """(branch key, its variables) in the order in which the site fuses them."""
    return sorted(site.items(), key=lambda item: int(item[0].partition("_")[0]))


def site_variables(collection, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """(path, {branch key: variables}) of every site in a collection 'equalizer' or 'moments'.

    The last part of a path is the site's name.
    """
    if collection and all("_" in key and key.partition("_")[0].isdigit() for key in collection):
        return [(path, collection)]
    return [found for key, value in collection.items() for found in site_variables(value, (*path, key))]


def normalize_weights(weights, kind: str):
    """Weights [branches] or [branches, channels] -> such as sum to 1 over the branches, or with 'fast' to just below.

    Args:
      kind: 'softmax', or 'fast': relu(w) / (sum of relu(w) + 1e-4).
    """
    if kind == "softmax":
        return jax.nn.softmax(weights, axis=0)
    positive = nn.relu(weights)
    return positive / (positive.sum(0) + FAST_EPSILON)


class Fusion(nn.Module):
    """One fusion site: branches are equalized, resized to one grid, and concatenated or summed.

    The module's name is the site's. Variables, where it is equalized explicitly: `equalizer/<branch>/{mean, std}`,
    each [c], written by `se_jax.equalize` only: before that there are none, nothing is equalized, and a warning says
    so once. With learnt weights: `params/softmax_weights` or `params/fast_weights`, [n] or [n, c]; or in their place
    the constants `params/weights` of `se_jax.equalizer.fold.fold_weights`. If the caller makes the collection `moments`
    mutable, the site leaves there, for every branch as it enters the fusion, the mean and the sum of squared deviations
    of each image and channel over its pixels ([b, c] float32) and the number of pixels.

    An affine map commutes with a bilinear resize, whose weights sum to one: equalizing before the resize is the same
    function as the paper's equalizing after it, at a fraction of the work. So does a learnt weight.

    Attributes:
      operation: 'concat' (along channels), 'sum', a sum with learnt weights (one of WEIGHTINGS; all start at 1), or
        'identity', which fuses nothing but equalizes maps that other sites will fuse.
      default: whether the site is equalized where the equalizer names no sites.
      upsample: how branches are resized, 'bilinear' or 'nearest', which leaves their variance as it is; equalizing
        commutes with both.
    """

    equalizer: Equalizer = Equalizer()
    operation: str = "concat"
    align_corners: bool = False
    default: bool = True
    upsample: str = "bilinear"
    dtype: Any = jnp.float32

    def __post_init__(self):
        for field, allowed in (("operation", OPERATIONS), ("upsample", UPSAMPLES)):
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"Fusion {field} is {value!r}; expected one of {', '.join(allowed)}")
        if not isinstance(self.equalizer, Equalizer):
            raise ValueError(
                f"Fusion equalizer is {self.equalizer!r}; expected a se_jax.Equalizer, e.g. Equalizer('explicit')"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int] | None = None):
        """Fuses `branches`, name -> [b, h_i, w_i, c_i], to [b, *size, c]; 'identity' gives each back at its size."""
        _check_branches(self, branches, size)
        explicit = self.equalizer.mode == "explicit" and self.equalizer.selects(self.name or "", self.default)
        weights = self._weights(branches) if self.operation in WEIGHTINGS else None
        resized = []
        for index, (name, x) in enumerate(branches.items()):
            key = branch_key(index, name)
            if explicit:
                x = self._equalize(key, x)
            if self._measuring():
                self.put_variable("moments", key, _image_moments(self.to_grid(x, size)))
            if weights is not None:  # on the small map: less work, and its gradient needs no large one
                x = x * weights[index].astype(x.dtype)
            resized.append(self.to_grid(x, size))
        if self.operation == "identity":
            return dict(zip(branches, resized, strict=True))
        return jnp.concatenate(resized, axis=-1) if self.operation == "concat" else sum(resized)

    def to_grid(self, x, size: tuple[int, int] | None):
        """A branch [b, h, w, c] as it enters the fusion, [b, *size, c] of the module's dtype."""
        if size is not None:
            x = resize_nearest(x, size) if self.upsample == "nearest" else resize(x, size, self.align_corners)
        return x.astype(self.dtype)

    def _weights(self, branches: dict[str, Any]):
        """The normalised weights of the branches, [n] or [n, c]."""
        if self.has_variable("params", CONSTANT_WEIGHTS):
            return self.get_variable("params", CONSTANT_WEIGHTS)
        kind = self.operation.removeprefix("channel_")
        channels = () if kind == self.operation else next(iter(branches.values())).shape[-1:]
        weights = self.param(f"{kind}_weights", nn.initializers.ones, (len(branches), *channels))
        return normalize_weights(weights, kind)

    def _measuring(self) -> bool:
        return self.is_mutable_collection("moments") and not self.is_initializing()

    def _equalize(self, key: str, x):
        x = x.astype(jnp.float32)
        if not self.has_variable("equalizer", key):
            if not (self.is_initializing() or self._measuring()):
                _warn_of_missing_statistics("/".join(self.path) or self.name)
            return x
        statistics = self.get_variable("equalizer", key)
        return (x - statistics["mean"]) / statistics["std"]


class FusionConv(nn.Module):
    """A fusion site and the convolution block behind it: branches -> [b, *size, features].

    Attributes:
      site: name of the fusion site.
      separable: the block is depthwise-separable; an equalizer then folds into its depthwise convolution.
      norm, kernel_init: as ConvBlock's, of a block that is not separable.
    """

    site: str
    features: int
    kernel_size: int = 3
    separable: bool = False
    norm: str = "batch"
    kernel_init: Callable = kaiming_normal
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    default: bool = True
    upsample: str = "bilinear"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int], train: bool = False):
        fusion = Fusion(
            self.equalizer,
            align_corners=self.align_corners,
            default=self.default,
            upsample=self.upsample,
            dtype=self.dtype,
            name=self.site,
        )
        options = {} if self.separable else {"norm": self.norm, "kernel_init": self.kernel_init}
        block = (SeparableConvBlock if self.separable else ConvBlock)(
            self.features,
            self.kernel_size,
            tap_bias=self.equalizer.mode == "folded" and self.equalizer.selects(self.site, self.default),
            dtype=self.dtype,
            name="block",
            **options,
        )
        return block(fusion(branches, size), train)


class NormedSumConv(nn.Module):
    """A group-normalised branch plus another, and the convolution block behind: branches -> [b, *size, features].

    The first branch is normalised here, so that an equalizer folds into that norm and the convolution: with a the
    normalised branch, b the other one, (a - m_a) / s_a + (b - m_b) / s_b is ((a - m_a) s_b / s_a - m_b + b) / s_b. The
    zeros of the padding stay the same zeros: nothing is left to compute.

    Attributes:
      site: name of the fusion site.
    """

    site: str
    features: int
    kernel_size: int = 3
    kernel_init: Callable = kaiming_normal
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    default: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int]):
        (name, first), *others = branches.items()
        first = GroupNorm(dtype=self.dtype, name=BRANCH_NORM)(first)
        options = {"align_corners": self.align_corners, "default": self.default, "dtype": self.dtype}
        total = Fusion(self.equalizer, "sum", name=self.site, **options)({name: first, **dict(others)}, size)
        block = ConvBlock(
            self.features,
            self.kernel_size,
            norm="group",
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="block",
        )
        return block(total)


class BlockSumConv(nn.Module):
    """Branches with a last block of the site's own, at most one other, their sum and the convolution block behind.

    A last block ends with a norm and a ReLU. For s > 0, relu(x) / s is relu(x / s), and a resize is linear: an
    equalizer's scale folds into the norm's scale and bias, its shift into the convolution behind. The one branch
    without a block, b, keeps its scale: all the others take it, and the convolution divides by it.

    Attributes:
      site: name of the fusion site.
      features, kernel_size, norm, use_bias, kernel_init: of the convolution block behind, as ConvBlock's.
      width: channels of the sum. lasts: names of the branches with a last block, of `last_size` and `last_norm`.
      dropout: of the sum's channels.
    """

    site: str
    features: int
    width: int
    lasts: tuple[str, ...]
    kernel_size: int = 1
    norm: str = "batch"
    use_bias: bool = False
    kernel_init: Callable = kaiming_normal
    last_size: int = 1
    last_norm: str = "batch"
    dropout: float = 0.0
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    default: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int], train: bool = False):
        """Branches as they enter their last blocks, name -> [b, h_i, w_i, c_i] -> [b, *size, features]."""
        if len(branches) - len(self.lasts) > 1:
            raise ValueError(f"BlockSumConv '{self.site}' has several branches without a last block: {list(branches)}")
        options = {"norm": self.last_norm, "dtype": self.dtype}
        ended = {
            name: ConvBlock(self.width, self.last_size, name=LAST_BLOCK + name, **options)(x, train)
            if name in self.lasts
            else x
            for name, x in branches.items()
        }
        options = {"align_corners": self.align_corners, "default": self.default, "dtype": self.dtype}
        total = Fusion(self.equalizer, "sum", name=self.site, **options)(ended, size)
        total = ChannelDropout(self.dropout, name="dropout")(total, train)
        block = ConvBlock(
            self.features,
            self.kernel_size,
            norm=self.norm,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            tap_bias=self.equalizer.mode == "folded" and self.equalizer.selects(self.site, self.default),
            dtype=self.dtype,
            name="block",
        )
        return block(total, train)


def _check_branches(site: Fusion, branches, size) -> None:
    """Raises ValueError for what cannot be fused; names the site and the branch."""
    where = f"fusion site '{'/'.join(site.path) or site.name}'"
    if not isinstance(branches, Mapping) or not branches:
        raise ValueError(f"{where} got {type(branches).__name__}; expected a dict of branches by name, one at least")
    for name, x in branches.items():
        if len(getattr(x, "shape", ())) != 4:
            found = f"shape {list(x.shape)}" if hasattr(x, "shape") else type(x).__name__
            raise ValueError(f"{where}, branch '{name}' is of {found}; expected a map [batch, height, width, channels]")
    if site.operation == "identity":
        return
    shapes = {name: tuple(x.shape) for name, x in branches.items()}
    if size is None and len({shape[1:3] for shape in shapes.values()}) > 1:
        raise ValueError(f"{where} got maps of several sizes, {shapes}; give the size to which they are resized")
    if site.operation != "concat" and len({shape[3] for shape in shapes.values()}) > 1:
        raise ValueError(f"{where} sums maps of several channels, {shapes}; project them to one number of channels")


@functools.cache  # once a site
def _warn_of_missing_statistics(site: str) -> None:
    warnings.warn(
        f"fusion site '{site}' has an explicit equalizer without statistics, so it equalizes nothing; measure them "
        "with se_jax.equalize(network, variables, batches)",
        stacklevel=2,
    )


def _image_moments(x) -> dict[str, Any]:
    """Moments over the pixels of each image and channel: small enough for the host to merge, in any grouping."""
    x = x.astype(jnp.float32)
    # row by row: two short sums lose less than one long one
    mean = jnp.mean(jnp.mean(x, axis=2), axis=1)
    deviation = jnp.mean(jnp.mean(jnp.square(x - mean[:, None, None]), axis=2), axis=1)
    pixels = x.shape[1] * x.shape[2]
    return {"mean": mean, "squares": deviation * pixels, "pixels": jnp.int32(pixels)}
