"""Calibration: measures the mean and standard deviation of every equalized branch over the training set.

One pass over the data a fusion site, in the order in which they run, each with the sites before it already equalized.
The whole network runs on batch statistics, as training will, with dropout off, and nothing is updated. Moments are
taken a pixel map at a time in float32 on the device and merged in float64 on the host, so the result does not depend
on how many devices share a batch.
"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from se_jax.equalizer.fold import fold
from se_jax.equalizer.fusion import Equalizer, branch_name, ordered_branches, site_variables
from se_jax.equalizer.sites import Site, find_sites
from se_jax.models.segmenter import normalize

Batches = Callable[[], Iterable[Any]]


@dataclasses.dataclass
class Moments:
    """Count, mean and sum of squared deviations of each channel of a branch, in float64."""

    count: int = 0
    mean: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    def merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        """Adds the moments of `count` more values (Chan et al., 1979)."""
        total = self.count + count
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def channel(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation of each channel."""
        return np.asarray(self.mean), np.sqrt(self.squares / self.count)

    def whole(self) -> tuple[float, float]:
        """Mean and population standard deviation over all channels together."""
        merged = np.mean(self.squares) / self.count + np.var(self.mean)
        return float(np.mean(self.mean)), float(np.sqrt(merged))


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one branch of a site before it was equalized.

    Attributes:
      ratio: its std relative to the site's widest branch.
      checked_mean, checked_std: of the equalized branch, measured on fresh images; None where that was not asked for.
    """

    site: str
    branch: str
    mean: float
    std: float
    ratio: float
    checked_mean: float | None = None
    checked_std: float | None = None


def equalize(
    module: nn.Module, variables, batches: Batches, fresh: Batches | None = None, **options
) -> tuple[dict, list[Row]]:
    """Measures the statistics of a network's equalizers and returns variables ready for it, with what was measured.

    Works on any Linen module that fuses with `Fusion` or `FusionConv`. Its equalizers' mode decides: 'explicit' gives
    variables with a collection `equalizer`, with 'folded' the statistics go into the weights, with 'none' nothing is
    done. A module that is to be folded has a field `equalizer` (or a method `with_equalizer`, as Segmenter), by which
    its mode is changed for the measurement.

    Args:
      variables: {'params', 'batch_stats', ...} of the network, also of the same one without equalizers.
      batches: called once a site, returns one pass over the training set. A batch is {'image': uint8 [b, h, w, 3], and
        where the images are padded 'size': int32 [b, 2], and where a batch is filled up 'valid': bool [b]}, whose
        images are normalised (by the module's method `normalize`, as Segmenter's; without one by ImageNet's mean and
        std), or whatever the module is called with: an array, or a tuple of arguments.
      fresh: like `batches`, other images or other augmentations: each equalized branch is measured once more on them,
        where it should have mean 0 and std 1 within the sampling error. None leaves this out.
      **options: as of `calibrate`.

    Raises:
      ValueError: as `calibrate`; or where the mode is 'folded' and a site has no convolution behind it.
    """
    sites, stream = _begin(module, variables, batches)
    found = [site for site in sites if site.equalized]
    modes = {site.mode for site in found}
    if not modes:
        return variables, []
    if len(modes) > 1:
        raise ValueError(f"the network's equalizers have several modes, {', '.join(sorted(modes))}; give all the same")
    explicit = module if modes == {"explicit"} else with_mode(module, "explicit")
    calibrated, rows = _calibrate(explicit, variables, found, stream, batches, **options)
    if fresh is not None:
        checks = _rows(found, _measure(explicit, calibrated, fresh(), found, **options))
        rows = [
            dataclasses.replace(row, checked_mean=check.mean, checked_std=check.std)
            for row, check in zip(rows, checks, strict=True)
        ]
    return (fold(calibrated) if modes == {"folded"} else calibrated), rows


def with_mode(module: nn.Module, mode: str) -> nn.Module:
    """The same network with its equalizers in another mode.

    Raises:
      ValueError: it has no field `equalizer` to change.
    """
    if hasattr(module, "with_equalizer"):
        return module.with_equalizer(mode=mode)
    equalizer = getattr(module, "equalizer", None)
    if not isinstance(equalizer, Equalizer):
        raise ValueError(
            f"{type(module).__name__} has no field `equalizer`, by which its mode could be set to {mode!r}; declare "
            "`equalizer: Equalizer = Equalizer()` and give it to every Fusion and FusionConv"
        )
    return module.clone(equalizer=dataclasses.replace(equalizer, mode=mode))


def calibrate(
    module: nn.Module, variables, batches: Batches, *, mesh=None, jit=jax.jit, progress=None
) -> tuple[dict, list[Row]]:
    """Measures every equalized branch of an explicit network and writes the statistics into its variables.

    Args:
      module: a network whose equalizers have mode 'explicit'.
      variables: {'params', 'batch_stats', ...}; an 'equalizer' collection in it is measured anew.
      batches: as of `equalize`.
      mesh: where the batches are sharded over devices, their mesh.
      jit: how to compile, e.g. `parallel.jit`.
      progress: called as progress(site, images so far) after every batch.

    Returns:
      (variables with the collection 'equalizer', the rows measured: each branch as it entered the fusion unequalized).

    Raises:
      ValueError: naming site and branch, where the std is zero or a statistic is not finite; or when there is no image,
        or a site runs twice.
    """
    sites, stream = _begin(module, variables, batches)
    found = [site for site in sites if site.equalized]
    return _calibrate(module, variables, found, stream, batches, mesh=mesh, jit=jit, progress=progress)


def measure(module: nn.Module, variables, batches: Batches, *, mesh=None, jit=jax.jit, progress=None) -> list[Row]:
    """One pass that measures every branch of every site as it enters the fusion, whatever the network's mode.

    After calibration on an explicit network: the check that equalized branches have mean 0 and std 1. On a plain
    network: how unequal its branches are. Arguments as of `calibrate`.
    """
    sites, stream = _begin(module, variables, batches)
    return _rows(sites, _measure(module, variables, stream, sites, mesh=mesh, jit=jit, progress=progress))


def table(rows: list[Row]) -> str:
    """The rows as text: site, branch, mean, std, ratio to the site's widest."""
    checked = any(row.checked_std is not None for row in rows)
    lines = [
        f"{'site':<14} {'branch':<12} {'mean':>10} {'std':>10} {'ratio':>7}" + "   equalized, on fresh images" * checked
    ]
    for r in rows:
        check = f"   mean {r.checked_mean:>7.4f}  std {r.checked_std:.4f}" if checked else ""
        lines.append(f"{r.site:<14} {r.branch:<12} {r.mean:>10.5f} {r.std:>10.5f} {r.ratio:>7.3f}{check}")
    return "\n".join(lines)


def _check_arguments(module, variables, batches) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is {module!r}; expected a Linen module, e.g. of se_jax.build(config.model)")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError("variables have no 'params'; expected {'params', 'batch_stats', ...} of the network's init")
    if not callable(batches):
        raise ValueError(
            f"batches is {type(batches).__name__}; expected a function that returns one pass over the images, as it is "
            "called once a fusion site: lambda: iter(batches)"
        )


def _begin(module, variables, batches: Batches) -> tuple[list[Site], Iterable]:
    """The sites of a network, which a first batch shows, and the pass over the images that was begun for it."""
    _check_arguments(module, variables, batches)
    stream = iter(batches())
    first = next(stream, None)
    if first is None:
        raise ValueError("calibration got no batch of images; the training set is empty")
    return find_sites(module, *_shapes(module, first)), itertools.chain([first], stream)


def _shapes(module, batch):
    """Of what a module is called with for a batch."""
    return jax.eval_shape(functools.partial(_inputs, module), batch)


def _inputs(module, batch) -> tuple:
    """What a module is called with for a batch."""
    if isinstance(batch, Mapping):
        if getattr(batch.get("image"), "dtype", None) != np.uint8:
            found = getattr(batch.get("image"), "dtype", "none")
            raise ValueError(
                f"a batch has images of {found}; expected 'image': uint8 [batch, height, width, 3], which is "
                "normalised. What is normalised already is given as an array instead of a dict"
            )
        return (getattr(module, "normalize", normalize)(batch["image"], batch.get("size")),)
    return batch if isinstance(batch, tuple) else (batch,)


def _calibrate(module, variables, sites, stream, batches, **options) -> tuple[dict, list[Row]]:
    """`calibrate` of these sites; stream: the first pass, which was begun to find them."""
    variables = {name: tree for name, tree in variables.items() if name != "equalizer"}
    statistics, rows = {}, []
    for number, site in enumerate(sites):
        state = {**variables, "equalizer": traverse_util.unflatten_dict(statistics)}
        measured = _measure(module, state, batches() if number else stream, [site], **options)
        for key, moments in measured[0].items():
            mean, std = moments.channel() if site.per_channel else moments.whole()
            _check(site.name, branch_name(key), mean, std)
            channels = site.branches[key]
            for name, value in (("mean", mean), ("std", std)):
                statistics[(*site.path, key, name)] = jnp.full(channels, value, jnp.float32)
        rows += _rows([site], measured)
    return {**variables, "equalizer": traverse_util.unflatten_dict(statistics)}, rows


def _measure(module, variables, batches, sites, *, mesh=None, jit=jax.jit, progress=None) -> list[dict[str, Moments]]:
    """{branch key: moments} of each site, over all valid images of `batches`."""
    replicated = {} if mesh is None else {"out_shardings": jax.NamedSharding(mesh, jax.P())}
    forward = jit(functools.partial(_batch_moments, module, tuple(site.path for site in sites)), **replicated)
    totals: list[dict[str, Moments]] = [{} for _ in sites]
    images, pending = 0, None
    for batch in itertools.chain(batches, [None]):
        ahead = None if batch is None else forward(variables, batch)  # runs while the batch before it is merged
        if pending is not None:
            moments, valid = jax.device_get(pending)
            images += _merge(totals, moments, valid)
            if progress is not None:
                progress(", ".join(site.name for site in sites), images)
        pending = ahead
    if not images:
        raise ValueError("calibration got no batch of images; the training set is empty")
    return totals


def _batch_moments(module, paths, variables, batch):
    inputs = _inputs(module, batch)
    trains = {"train": True} if "train" in inspect.signature(type(module).__call__).parameters else {}
    _, updates = module.apply(variables, *inputs, **trains, mutable=["moments"])
    found = dict(site_variables(updates["moments"]))
    # only what is asked for is returned, so that the compiler drops the rest of the network
    valid = batch.get("valid") if isinstance(batch, Mapping) else None
    return [found[path] for path in paths], jnp.ones(len(jax.tree.leaves(inputs)[0]), bool) if valid is None else valid


def _merge(totals, moments, valid: np.ndarray) -> int:
    count = int(valid.sum())
    for branches, site in zip(totals, moments, strict=True) if count else ():
        for key, values in ordered_branches(site):
            means = values["mean"][valid].astype(np.float64)
            mean = means.mean(0)
            pixels = int(values["pixels"])
            squares = values["squares"][valid].astype(np.float64).sum(0) + pixels * ((means - mean) ** 2).sum(0)
            branches.setdefault(key, Moments()).merge(count * pixels, mean, squares)
    return count


def _rows(sites, measured: list[dict[str, Moments]]) -> list[Row]:
    rows = []
    for site, branches in zip(sites, measured, strict=True):
        statistics = {branch_name(key): moments.whole() for key, moments in branches.items()}
        widest = max(std for _, std in statistics.values())
        for branch, (mean, std) in statistics.items():
            rows.append(Row(site.name, branch, mean, std, std / widest if widest else 0.0))
    return rows


def _check(site: str, branch: str, mean, std) -> None:
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(std))):
        what = "statistics that are not finite (mean {}, std {})"
    elif np.any(std <= 1e-7 * np.abs(mean)):  # a constant branch, up to the rounding of its mean
        what = "no variance (mean {}, std {})"
    else:
        return
    numbers = (np.array2string(np.asarray(value), precision=4, threshold=8) for value in (mean, std))
    raise ValueError(
        f"fusion site '{site}', branch '{branch}': calibration found {what.format(*numbers)}, so the branch cannot be "
        f"equalized. Look for dead or diverging layers before it, or leave '{site}' out of equalizer.sites"
    )
