"""Folding: moves the statistics of explicit scale equalizers into the convolutions behind their sites.

For a fused input [x_1, .., x_L] and a kernel W with one block W_i a branch,

    sum_i W_i * (x_i - mean_i) / std_i  =  sum_i (W_i / std_i) * x_i  -  sum over taps inside the map of (W_i / std_i)
    mean_i

The first term is the same convolution with scaled weights. The second is constant but for the border: the convolution
pads the equalized map with zeros, so a tap that falls outside must not count. It becomes the convolution's
`tap_bias`, one bias a tap, which makes the fold exact at every dilation; a constant bias would be wrong along the
border.

A sum of two branches is [(x_1 - mean_1) std_2 / std_1 + x_2 - mean_2] / std_2. Where x_1 comes out of a norm of the
site's own (NormedSumConv), the scale and bias of that take all of the bracket but x_2, and the kernel behind the sum
takes the rest. Zeros of the padding are the same zeros before and after: no border is left.

Where all branches but one, b, come out of a norm and a ReLU of the site's own (BlockSumConv), their norms take
std_b / std_i (1 / std_i where there is no b), which a ReLU lets through, and the kernel behind the sum takes 1 / std_b.
The shifts, summed, are the convolution's `tap_bias` as above.

`fold_weights` does the like for sums with learnt weights: their normalisation is computed once and for all.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from se_jax.equalizer.fusion import (
    BRANCH_NORM,
    CONSTANT_WEIGHTS,
    LAST_BLOCK,
    LEARNT_WEIGHTS,
    normalize_weights,
    ordered_branches,
    site_variables,
)

# the convolution that first sees the fused map, relative to the module that holds the site
CONVOLUTIONS = (("block", "conv"), ("block", "depthwise_conv", "conv"))


def can_fold(variables) -> bool:
    """Whether there are statistics and a convolution follows every equalized site, so that `fold` does not refuse."""
    found = site_variables(variables.get("equalizer", {}))
    return bool(found) and all(_find_convolution(variables["params"], path) for path, _ in found)


def fold(variables):
    """Folds every equalizer of `variables` into weights; exact, before training as well as after.

    Args:
      variables: of an explicit network, {'params', 'equalizer', ...} as nested dicts.

    Returns:
      New variables, without 'equalizer', for the same network with the equalizer's mode 'folded'
      (`model.with_equalizer(mode='folded')`). The input is left as it was.

    Raises:
      ValueError: where there is nothing to fold, or a site has no convolution behind it (a sum); says why.
    """
    if not variables.get("equalizer"):
        raise ValueError("there are no equalizer statistics to fold; calibrate the network with mode 'explicit' first")
    params = jax.tree.map(lambda leaf: leaf, variables["params"])  # new dicts, same arrays
    for path, site in site_variables(variables["equalizer"]):
        convolution = _find_convolution(params, path)
        if convolution is None:
            raise ValueError(
                f"fusion site '{path[-1]}' ({'/'.join(path)}) cannot be folded: {_obstacle(params, path)}. Use "
                "equalizer.mode='explicit', or leave the site out of equalizer.sites"
            )
        holder = _holder(params, path)
        if BRANCH_NORM in holder:
            holder[BRANCH_NORM], convolution["kernel"] = fold_sum(holder[BRANCH_NORM], convolution["kernel"], site)
        elif any(name.startswith(LAST_BLOCK) for name in holder):
            fold_blocks(holder, convolution, site)
        else:
            convolution.update(fold_site(convolution["kernel"], site))
    return {**{name: value for name, value in variables.items() if name != "equalizer"}, "params": params}


def fold_site(kernel, site) -> dict[str, jax.Array]:
    """Folds one site's statistics into the kernel [kh, kw, in, out] behind it, or the depthwise one [kh, kw, 1, in].

    Returns:
      {'kernel': like the given one, 'tap_bias': [kh, kw, out]}.
    """
    branches = [statistics for _, statistics in ordered_branches(site)]
    mean, std = (jnp.concatenate([branch[name] for branch in branches]) for name in ("mean", "std"))
    depthwise = kernel.shape[2] == 1 and kernel.shape[3] == mean.size
    scaled = kernel / (std if depthwise else std[:, None])
    if depthwise:
        return {"kernel": scaled, "tap_bias": -scaled[:, :, 0] * mean}
    tap_bias = -jnp.einsum("klio,i->klo", scaled, mean, precision=jax.lax.Precision.HIGHEST)
    return {"kernel": scaled, "tap_bias": tap_bias}


def without_borders(variables):
    """Folded variables as a network without equalizers takes them: border terms go into biases, or BatchNorms behind.

    The same function but along the border, where a tap outside of the map should not count and now does: there, and as
    far as later layers carry it, the outputs differ.

    Args:
      variables: {'params', 'batch_stats', ...} of a folded network, as nested dicts; left as they are.

    Raises:
      ValueError: a convolution with a border term has no bias, and no BatchNorm follows.
    """
    flat: dict[tuple[str, ...], Any] = dict(
        traverse_util.flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    )
    for key in [key for key in flat if key[-1] == "tap_bias"]:
        mean, bias = ("batch_stats", *key[1:-2], "bn", "mean"), (*key[:-1], "bias")
        if bias in flat:
            flat[bias] = flat[bias] + flat.pop(key).sum((0, 1))
            continue
        if mean not in flat:
            raise ValueError(f"the border term of {'/'.join(key[1:-1])} has no BatchNorm behind it to go into")
        flat[mean] = flat[mean] - flat.pop(key).sum((0, 1))
    return {**variables, **traverse_util.unflatten_dict(flat)}


def fold_sum(norm, kernel, site):
    """Folds the statistics of a sum of two branches into the first one's norm and the kernel behind the sum.

    Args:
      norm: {'scale', 'bias'}, each [c]. kernel: [kh, kw, c, out].

    Returns:
      The same two.
    """
    (_, first), (_, second) = ordered_branches(site)
    ratio = second["std"] / first["std"]
    bias = (norm["bias"] - first["mean"]) * ratio - second["mean"]
    return {"scale": norm["scale"] * ratio, "bias": bias}, kernel / second["std"][:, None]


def fold_blocks(holder: dict, convolution: dict, site) -> None:
    """Folds the statistics of a sum into its branches' last blocks and the convolution behind, in place.

    holder: parameters of the BlockSumConv. convolution: {'kernel': [kh, kw, c, out], ...}, of its block.
    """
    norms, scale, shift = {}, jnp.ones(()), jnp.zeros(())
    for key, statistics in ordered_branches(site):
        last = holder.get(LAST_BLOCK + key.partition("_")[2])
        shift = shift + statistics["mean"] / statistics["std"]
        if last is None:
            scale = statistics["std"]
        else:
            norms[key] = next(norm for name, norm in last.items() if name in ("bn", "gn"))
    for key, norm in norms.items():
        norm.update({name: norm[name] * (scale / site[key]["std"]) for name in ("scale", "bias")})
    kernel = convolution["kernel"]
    tap_bias = -jnp.einsum("klio,i->klo", kernel, shift, precision=jax.lax.Precision.HIGHEST)
    convolution.update(kernel=kernel / jnp.broadcast_to(scale, shift.shape)[:, None], tap_bias=tap_bias)


def fold_weights(variables):
    """Replaces the learnt weights of every weighted sum by the constants that they amount to.

    For inference: the same network takes the result and computes the same, without a softmax or a division. The
    constants cannot be trained on, as nothing would keep them normalised. Without such sums nothing changes.

    Args:
      variables: {'params', ...} as nested dicts; left as they are.
    """

    def constant(node: dict) -> dict:
        new = {}
        for name, value in node.items():
            if name in LEARNT_WEIGHTS:
                new[CONSTANT_WEIGHTS] = normalize_weights(value, LEARNT_WEIGHTS[name])
            else:
                new[name] = constant(value) if isinstance(value, dict) else value
        return new

    return {**variables, "params": constant(variables["params"])}


def _obstacle(params, path: tuple[str, ...]) -> str:
    """Why no weights take the statistics of the site at `path`, behind which no convolution stands."""
    site = functools.reduce(lambda node, name: node.get(name, {}), path, params)
    if site.keys() & LEARNT_WEIGHTS.keys():
        return (
            "its branches are summed by learnt weights, which are normalised to a sum of one and cannot take a scale, "
            "and an activation follows, so that no later bias can take the mean"
        )
    return "its branches are summed, and no convolution takes them by themselves"


def _holder(params, path: tuple[str, ...]) -> dict:
    """The parameters of the module that holds the site at `path`."""
    return functools.reduce(operator.getitem, path[:-1], params)


def _find_convolution(params, path: tuple[str, ...]) -> dict | None:
    """The parameters of the convolution that takes the output of the site at `path`; None behind a sum."""
    holder = _holder(params, path)
    for convolution in CONVOLUTIONS:
        found = functools.reduce(lambda node, name: node.get(name, {}), convolution, holder)
        if "kernel" in found:
            return found
    return None
