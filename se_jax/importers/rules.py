"""The language of the import tables: which module of a checkpoint is which of ours, how its tensors are laid out."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from se_jax.config.normalization import IMAGENET, Normalization


class Leaf(NamedTuple):
    """One of our arrays and the tensors of a torch module that it is made of.

    Attributes:
      collection, name: of our array below its module's path, e.g. ('params', 'kernel').
      tensors: names below the torch module; more than one where torch keeps apart what we keep together.
      to_ours: their values -> our array. to_theirs: the exact inverse, array -> tuple of tensors.
      fit: (tensor, shape of our array) -> (tensor made for that shape, what was done or ''); raises ValueError where it
        cannot be. For an array of one tensor.
    """

    collection: str
    name: str
    tensors: tuple[str, ...]
    to_ours: Callable[..., np.ndarray]
    to_theirs: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    fit: Callable[[np.ndarray, tuple[int, ...]], tuple[np.ndarray, str]] | None = None


class Rule(NamedTuple):
    """Torch module `theirs` is our module `ours`; each `{}` stands for one number, in the same order on both sides."""

    theirs: str
    ours: str
    leaves: tuple[Leaf, ...]

    def module_of(self, ours: str) -> str | None:
        """The torch module that our module is, or None if this rule is about others."""
        pattern = r"(\d+)".join(re.escape(part) for part in self.ours.split("{}"))
        match = re.fullmatch(pattern, ours)
        return self.theirs.format(*match.groups()) if match else None


class Table(NamedTuple):
    """How one layout names one network.

    Attributes:
      rules: looked up from our side; the first that fits a variable counts.
      skipped: regular expression of tensor names -> why they have no counterpart.
      optional: regular expressions of our modules that keep their initial values if a checkpoint lacks them.
      stem: our module of the first convolution, whose inputs are the image's channels.
      older: regular expressions of names that older checkpoints have -> the name of today, as re.sub takes it.
      read: what is done to a checkpoint's tensors, {name: tensor}, before the rules apply; write: the way back.
      hints: regular expressions found in what does not fit -> what to do then.
      normalization: of the images that this source's published encoders were trained with; ImageNet's where a table
        states none.
    """

    rules: tuple[Rule, ...]
    skipped: dict[str, str] = {}
    optional: tuple[str, ...] = ()
    stem: str = ""
    older: dict[str, str] = {}
    read: Callable[[dict], dict] = dict
    write: Callable[[dict], dict] = dict
    hints: dict[str, str] = {}
    normalization: Normalization = IMAGENET


def parameter(ours: str, theirs: str) -> Leaf:
    """A parameter that is the same array on both sides."""
    return Leaf("params", ours, (theirs,), lambda tensor: tensor, lambda array: (array,))


def transposed(ours: str, theirs: str, axes: tuple[int, ...]) -> Leaf:
    """A parameter whose axes are `axes` of torch's."""
    inverse = tuple(np.argsort(axes))
    return Leaf("params", ours, (theirs,), lambda t: t.transpose(axes), lambda a: (a.transpose(inverse),))


def _statistic(ours: str, theirs: str) -> Leaf:
    return parameter(ours, theirs)._replace(collection="batch_stats")


_BIAS = parameter("bias", "bias")
# OIHW <-> HWIO; grouped kernels alike, their I is inputs / groups in both
# tap_bias, of a folded equalizer, is ours; in files it has the order of a kernel: [out, kh, kw]
TAP_BIAS = "tap_bias"
CONV = (transposed("kernel", "weight", (2, 3, 1, 0)), _BIAS, transposed(TAP_BIAS, TAP_BIAS, (1, 2, 0)))
LINEAR = (transposed("kernel", "weight", (1, 0)), _BIAS)
LAYER_NORM = (parameter("scale", "weight"), _BIAS)
NORM = (*LAYER_NORM, _statistic("mean", "running_mean"), _statistic("var", "running_var"))
# torch's 1x1 convolution [out, in, 1, 1], our linear map [in, out]; and the other way round
LINEAR_AS_CONV = (
    Leaf("params", "kernel", ("weight",), lambda t: t[:, :, 0, 0].T, lambda a: (a.T[:, :, None, None],)),
    _BIAS,
)
CONV_AS_LINEAR = (
    Leaf("params", "kernel", ("weight",), lambda t: t.T[None, None], lambda a: (a[0, 0].T,)),
    _BIAS,
)
# torch's transposed convolution of kernel and stride 2 [in, out, 2, 2], our linear map [in, 2 * 2 * out]
TRANSPOSED_CONV = (
    Leaf(
        "params",
        "kernel",
        ("weight",),
        lambda t: t.transpose(0, 2, 3, 1).reshape(len(t), -1),
        lambda a: (a.reshape(len(a), 2, 2, -1).transpose(0, 3, 1, 2),),
    ),
    _BIAS,
)
# the packed projection of torch's MultiheadAttention
IN_PROJ = (transposed("kernel", "in_proj_weight", (1, 0)), parameter("bias", "in_proj_bias"))


def _split_qkv(suffix: str, ours: str) -> Leaf:
    """Our packed projection of queries, keys and values, kept as `q` and `kv` in torch; `suffix` is their tensor's."""

    def pack(q, kv):
        return np.concatenate([q, kv]).T

    def unpack(packed):
        third = packed.shape[-1] // 3
        return packed.T[:third], packed.T[third:]

    return Leaf("params", ours, (f"q.{suffix}", f"kv.{suffix}"), pack, unpack)


# the same projection where torch keeps queries apart from keys and values, as PVT does
SPLIT_QKV = (_split_qkv("weight", "kernel"), _split_qkv("bias", "bias"))


def three_projections(query: str, key: str, value: str) -> tuple[Leaf, ...]:
    """The same projection where torch has three linear layers of these names."""

    def leaf(suffix: str, ours: str) -> Leaf:
        names = tuple(f"{name}.{suffix}" for name in (query, key, value))
        return Leaf("params", ours, names, lambda *t: np.concatenate(t).T, lambda a: tuple(np.split(a.T, 3)))

    return leaf("weight", "kernel"), leaf("bias", "bias")


def conv_block(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The two rules of mmcv's ConvModule."""
    return Rule(f"{theirs}.conv", f"{ours}/conv", CONV), Rule(f"{theirs}.bn", f"{ours}/bn", NORM)


def conv_bn(conv: str, bn: str, ours: str) -> tuple[Rule, Rule]:
    """The two rules of a convolution and its BatchNorm that have no module in common; ours is a ConvBlock."""
    return Rule(conv, f"{ours}/conv", CONV), Rule(bn, f"{ours}/bn", NORM)
