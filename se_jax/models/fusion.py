"""Fusion of feature maps from several depths, with scale equalizers.

The paper: Kim & Kim, "Scale Equalization for Multi-Level Feature Fusion", TMLR 2024 (arXiv 2402.01149). Bilinear
upsampling shrinks the variance of a feature map, so branches that were upsampled by different factors meet on
different scales. A scale equalizer maps a branch x to (x - mean) / std, with constants measured once over the target
data set.

Every decoder fuses its branches here: `Fusion` resizes, equalizes and concatenates or sums; `FusionConv` is a fusion
and the padded convolution block behind it as one unit, because only together can an equalizer be folded into weights:
where the convolution pads the *equalized* map with zeros, the raw map would have to be padded with the branch's mean.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from se_jax.models.layers import ConvBlock, SeparableConvBlock, resize

MODES = ("none", "explicit", "folded")
STATISTICS = ("global", "channel")


@dataclasses.dataclass(frozen=True)
class Equalizer:
    """Which fusion sites are equalized, and how.

    Attributes:
      mode: 'none'; 'explicit' normalises at run time with frozen statistics (the collection `equalizer`); 'folded'
        expects them in the weights of the convolution behind the site (see `se_jax.fold`) and computes nothing at run
        time but a border term.
      statistics: 'global' is one mean and std a branch, as in the paper; 'channel' is one a channel.
      sites: names of the sites to equalize; None means every concatenation after a resize.

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
        return default if self.sites is None else site in self.sites


def branch_key(index: int, name: str) -> str:
    """Key of a branch among a site's variables; its number keeps the order of the branches in sorted dicts."""
    return f"{index}_{name}"


def branch_name(key: str) -> str:
    """The inverse of `branch_key`."""
    return key.partition("_")[2]


def ordered_branches(site: dict[str, Any]) -> list[tuple[str, Any]]:
    """(branch key, its variables) in the order in which the site fuses them."""
    return sorted(site.items(), key=lambda item: int(item[0].partition("_")[0]))


def sites(collection, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """(path, {branch key: variables}) of every site in a collection 'equalizer' or 'moments'.

    The last part of a path is the site's name.
    """
    if collection and all("_" in key and key.partition("_")[0].isdigit() for key in collection):
        return [(path, collection)]
    return [found for key, value in collection.items() for found in sites(value, (*path, key))]


class Fusion(nn.Module):
    """One fusion site: branches are equalized, resized to one grid, and concatenated or summed.

    The module's name is the site's. Variables, where it is equalized explicitly: `equalizer/<branch>/{mean, std}`,
    each [c], born 0 and 1, written by `se_jax.calibrate` only. If the caller makes the collection `moments` mutable,
    the site leaves there, for every branch as it enters the fusion, the mean and the sum of squared deviations of
    each image and channel over its pixels ([b, c] float32) and the number of pixels.

    An affine map commutes with a bilinear resize, whose weights sum to one: equalizing before the resize is the same
    function as the paper's equalizing after it, at a fraction of the work.

    Attributes:
      operation: 'concat' (along channels) or 'sum'.
      default: whether the site is equalized where the equalizer names no sites.
    """

    equalizer: Equalizer = Equalizer()
    operation: str = "concat"
    align_corners: bool = False
    default: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int]):
        """Fuses `branches`, name -> [b, h_i, w_i, c_i], to [b, *size, c]."""
        explicit = self.equalizer.mode == "explicit" and self.equalizer.selects(self.name, self.default)
        resized = []
        for index, (name, x) in enumerate(branches.items()):
            key = branch_key(index, name)
            if explicit:
                x = self._equalize(key, x)
            x = resize(x, size, self.align_corners).astype(self.dtype)
            if self.is_mutable_collection("moments") and not self.is_initializing():
                self.put_variable("moments", key, _image_moments(x))
            resized.append(x)
        return jnp.concatenate(resized, axis=-1) if self.operation == "concat" else sum(resized)

    def _equalize(self, key: str, x):
        channels = x.shape[-1]
        statistics = self.variable(
            "equalizer", key, lambda: {"mean": jnp.zeros(channels), "std": jnp.ones(channels)}
        ).value
        return (x.astype(jnp.float32) - statistics["mean"]) / statistics["std"]


class FusionConv(nn.Module):
    """A fusion site and the convolution block behind it: branches -> [b, *size, features].

    Attributes:
      site: name of the fusion site.
      separable: the block is depthwise-separable; an equalizer then folds into its depthwise convolution.
    """

    site: str
    features: int
    kernel_size: int = 3
    separable: bool = False
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    default: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: dict[str, Any], size: tuple[int, int], train: bool = False):
        fusion = Fusion(
            self.equalizer, align_corners=self.align_corners, default=self.default, dtype=self.dtype, name=self.site
        )
        block = (SeparableConvBlock if self.separable else ConvBlock)(
            self.features,
            self.kernel_size,
            tap_bias=self.equalizer.mode == "folded" and self.equalizer.selects(self.site, self.default),
            dtype=self.dtype,
            name="block",
        )
        return block(fusion(branches, size), train)


def _image_moments(x) -> dict[str, Any]:
    """Moments over the pixels of each image and channel: small enough for the host to merge, in any grouping."""
    x = x.astype(jnp.float32)
    # row by row: two short sums lose less than one long one
    mean = jnp.mean(jnp.mean(x, axis=2), axis=1)
    deviation = jnp.mean(jnp.mean(jnp.square(x - mean[:, None, None]), axis=2), axis=1)
    pixels = x.shape[1] * x.shape[2]
    return {"mean": mean, "squares": deviation * pixels, "pixels": jnp.int32(pixels)}
