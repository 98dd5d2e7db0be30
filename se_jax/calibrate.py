"""Calibration: measures the mean and standard deviation of every equalized branch over the training set.

One pass over the data a fusion site, in nesting order, each with the sites before it already equalized. The whole
network runs on batch statistics, as training will, with dropout off, and nothing is updated. Moments are taken a
pixel map at a time in float32 on the device and merged in float64 on the host, so the result does not depend on how
many devices share a batch.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.fold import fold
from se_jax.models.fusion import branch_name, ordered_branches, sites
from se_jax.models.segmenter import Segmenter, normalize

Batches = Callable[[], Iterable[dict[str, Any]]]


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
        return self.mean, np.sqrt(self.squares / self.count)

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
    model: Segmenter, variables, batches: Batches, fresh: Batches | None = None, **options
) -> tuple[dict, list[Row]]:
    """Calibrates `model`, whatever its mode, and returns variables ready for it, with what was measured.

    With mode 'folded' the statistics go into the weights; with 'none' nothing is done.

    Args:
      fresh: like `batches`, other images or other augmentations: each equalized branch is measured once more on them,
        where it should have mean 0 and std 1 within the sampling error. None leaves this out.
      **options: as of `calibrate`.
    """
    mode = model.decoder.equalizer.mode
    if mode == "none":
        return variables, []
    explicit = model.with_equalizer(mode="explicit")
    calibrated, rows = calibrate(explicit, variables, batches, **options)
    if fresh is not None:
        checked = {(row.site, row.branch): row for row in measure(explicit, calibrated, fresh, **options)}
        rows = [
            dataclasses.replace(row, checked_mean=check.mean, checked_std=check.std)
            for row, check in ((row, checked[row.site, row.branch]) for row in rows)
        ]
    return (fold(calibrated) if mode == "folded" else calibrated), rows


def calibrate(
    model: Segmenter, variables, batches: Batches, *, mesh=None, jit=jax.jit, progress=None
) -> tuple[dict, list[Row]]:
    """Measures every equalized branch of an explicit network and writes the statistics into its variables.

    Args:
      model: a network whose equalizer has mode 'explicit'.
      variables: {'params', 'batch_stats', ...}; an 'equalizer' collection in it is measured anew.
      batches: called once a site, returns one pass over the training set: {'image': uint8 [b, h, w, 3], and where the
        images are padded 'size': int32 [b, 2], and where a batch is filled up 'valid': bool [b]}.
      mesh: where the batches are sharded over devices, their mesh.
      jit: how to compile, e.g. `parallel.jit`.
      progress: called as progress(site, images so far) after every batch.

    Returns:
      (variables with the collection 'equalizer', the rows measured: each branch as it entered the fusion unequalized).

    Raises:
      ValueError: naming site and branch, where the std is zero or a statistic is not finite; or when there is no image.
    """
    per_channel = model.decoder.equalizer.statistics == "channel"
    first, stream = _first(batches())
    equalizer, rows = identity(model, first["image"].shape), []
    for path, site in sorted(sites(equalizer), key=lambda entry: model.equalized_sites.index(entry[0][-1])):
        state = {**variables, "equalizer": equalizer}
        measured = _measure(model, state, stream, (path,), mesh=mesh, jit=jit, progress=progress)[path]
        stream = batches()
        for key, moments in measured.items():
            mean, std = moments.channel() if per_channel else moments.whole()
            _check(path[-1], branch_name(key), mean, std)
            site[key] = {name: jnp.full_like(site[key][name], value) for name, value in (("mean", mean), ("std", std))}
        rows += _rows(path[-1], measured)
    return {**variables, "equalizer": equalizer}, rows


def measure(model: Segmenter, variables, batches: Batches, *, mesh=None, jit=jax.jit, progress=None) -> list[Row]:
    """One pass that measures every branch of every site as it enters the fusion, whatever the network's mode.

    After calibration on an explicit network: the check that equalized branches have mean 0 and std 1. On a plain
    network: how unequal its branches are. Arguments as of `calibrate`.
    """
    first, stream = _first(batches())
    paths = _site_paths(model, variables, first)
    measured = _measure(model, variables, stream, tuple(paths), mesh=mesh, jit=jit, progress=progress)
    return [row for path in paths for row in _rows(path[-1], measured[path])]


def identity(model: Segmenter, image_shape: tuple[int, int, int, int]):
    """The collection 'equalizer' of an explicit network before calibration: mean 0 and std 1 everywhere."""
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["equalizer"]
    return jax.tree.map_with_path(
        lambda path, leaf: (jnp.ones if path[-1].key == "std" else jnp.zeros)(leaf.shape, leaf.dtype), shapes
    )


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


def plot(rows: list[Row], path) -> None:
    """Draws the std of every branch as a bar, one panel a site, into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = {site: list(group) for site, group in itertools.groupby(rows, key=lambda row: row.site)}
    widths = [len(group) for group in groups.values()]
    figure, axes = plt.subplots(
        1, len(groups), figsize=(1.5 + 1.0 * sum(widths), 3.6), width_ratios=widths, squeeze=False, layout="constrained"
    )
    for axis, (site, group) in zip(axes[0], groups.items(), strict=True):
        bars = axis.bar([row.branch for row in group], [row.std for row in group], color="#4477aa")
        axis.bar_label(bars, [f"{row.std:.3f}" for row in group], fontsize=8)
        axis.set_title(f"site '{site}'", fontsize=10)
        axis.tick_params(axis="x", rotation=30, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("std before equalizing")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _first(batches: Iterable) -> tuple[dict, Iterable]:
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("calibration got no batch of images; the training set is empty")
    return first, itertools.chain([first], stream)


def _site_paths(model: Segmenter, variables, batch) -> list[tuple[str, ...]]:
    """Paths of all sites of the network, in nesting order."""
    images = jax.ShapeDtypeStruct(batch["image"].shape, jnp.float32)
    forward = functools.partial(model.apply, train=True, mutable=["moments"])
    _, updates = jax.eval_shape(forward, variables, images)
    order = list(model.sites)
    return sorted((path for path, _ in sites(updates["moments"])), key=lambda path: order.index(path[-1]))


def _measure(model, variables, batches, paths, *, mesh, jit, progress) -> dict[tuple, dict[str, Moments]]:
    """{path of a site: {branch key: moments}} over all valid images of `batches`."""
    replicated = {} if mesh is None else {"out_shardings": jax.NamedSharding(mesh, jax.P())}
    forward = jit(functools.partial(_batch_moments, model, paths), **replicated)
    totals: dict[tuple, dict[str, Moments]] = {path: {} for path in paths}
    images, pending = 0, None
    for batch in itertools.chain(batches, [None]):
        ahead = None if batch is None else forward(variables, batch)  # runs while the batch before it is merged
        if pending is not None:
            moments, valid = jax.device_get(pending)
            images += _merge(totals, moments, valid)
            if progress is not None:
                progress(", ".join(path[-1] for path in paths), images)
        pending = ahead
    if not images:
        raise ValueError("calibration got no batch of images; the training set is empty")
    return totals


def _batch_moments(model, paths, variables, batch):
    images = normalize(batch["image"], batch.get("size"))
    _, updates = model.apply(variables, images, train=True, mutable=["moments"])
    found = dict(sites(updates["moments"]))
    # only what is asked for is returned, so that the compiler drops the rest of the network
    valid = batch.get("valid")
    return [found[path] for path in paths], jnp.ones(len(images), bool) if valid is None else valid


def _merge(totals, moments, valid: np.ndarray) -> int:
    count = int(valid.sum())
    for branches, site in zip(totals.values(), moments, strict=True) if count else ():
        for key, values in ordered_branches(site):
            means = values["mean"][valid].astype(np.float64)
            mean = means.mean(0)
            pixels = int(values["pixels"])
            squares = values["squares"][valid].astype(np.float64).sum(0) + pixels * ((means - mean) ** 2).sum(0)
            branches.setdefault(key, Moments()).merge(count * pixels, mean, squares)
    return count


def _rows(site: str, measured: dict[str, Moments]) -> list[Row]:
    statistics = {branch_name(key): moments.whole() for key, moments in measured.items()}
    widest = max(std for _, std in statistics.values())
    return [Row(site, branch, mean, std, std / widest if widest else 0.0) for branch, (mean, std) in statistics.items()]


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
