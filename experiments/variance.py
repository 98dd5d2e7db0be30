"""What a bilinear resize leaves of a map's variance: measured at a network's fusion sites, and by the closed form.

The closed form is ours; the paper states that the variance shrinks (its theorem 3.2) and gives no ratio that we have
read. A resize is a matrix A along each axis whose rows hold the shares of two neighbours, f and 1 - f. Of a field of
variance v whose neighbours along that axis correlate by rho, a resized value has f**2 + (1 - f)**2 + 2 f (1 - f) rho
times v, so that one axis keeps on average

    R(rho) = 1 - (1 - R)(1 - rho),    R = sum of A**2 / rows of A

and the two axes R_rows(rho_rows) R_columns(rho_columns), if the correlation is the product of one along each. It holds
for what varies within a map. The means of maps, over images and channels, vary too, and a resize leaves them alone.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax import parallel
from se_jax.equalizer.fusion import Fusion, branch_key
from se_jax.models.interpolation import taps
from se_jax.models.layers import resize

NORMALIZED_STD = math.sqrt(0.5 - 0.5 / math.pi)  # of ReLU(N(0, 1)): what BatchNorm and ReLU make of Gaussian values


def kept(source: int, target: int, correlation: float = 0.0) -> float:
    """The share of the variance that a resize of one axis keeps, of neighbours that correlate so."""
    if source == 1:
        return 1.0
    lower, upper, share = taps(source, target)
    share = np.where(lower == upper, 0, share)  # at the end both are the last value
    white = float(np.mean(share**2 + (1 - share) ** 2))
    return 1 - (1 - white) * (1 - correlation)


def expected_ratio(source, target, correlation=(0.0, 0.0)) -> float:
    """The share of the variance within maps that a resize of (height, width) `source` to `target` keeps."""
    return math.prod(kept(*axis) for axis in zip(source, target, correlation, strict=True))


@dataclasses.dataclass
class Branch:
    """What is measured of a branch, over all images that were added; sums are of the moments of one map each.

    Attributes:
      source, target: (height, width) before and after the resize. kind: see `kind`. channels: of the branch.
      maps: how many (image, channel) were seen.
      means, squares: [2], before and after the resize: sums of the maps' means and of their squares.
      within: [2]: sums of the variances within a map. neighbours: [2], along rows and columns, before the resize: sums
        of the mean products of neighbours' deviations from the map's mean; spread: [2], sums of what those are to be
        divided by: the mean product of the same values with themselves.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    kind: str
    channels: int
    maps: int = 0
    means: Any = 0.0
    squares: Any = 0.0
    within: Any = 0.0
    neighbours: Any = 0.0

    def add(self, sums: dict[str, Any], images: int) -> None:
        """Adds the maps of one more batch."""
        self.maps += images * self.channels
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + np.asarray(value, np.float64))

    def row(self) -> dict[str, Any]:
        """Means, standard deviations and autocorrelation of the branch, with what the closed form expects."""
        mean, within = self.means / self.maps, self.within / self.maps
        between = self.squares / self.maps - mean**2
        before, after = within + between
        correlation = np.where(within[0] > 0, self.neighbours / self.maps / max(within[0], 1e-30), 0.0)
        measured = {"kind": self.kind, "source": list(self.source), "target": list(self.target), "mean": float(mean[1])}
        closed = within[0] * expected_ratio(self.source, self.target, correlation) + between[0]
        white = within[0] * expected_ratio(self.source, self.target) + between[0]
        return measured | {
            "std_before": math.sqrt(before),
            "std_after": math.sqrt(after),
            "correlation": correlation.tolist(),
            "share_within": within[0] / before,
            "kept": after / before,
            "kept_expected": closed / before,
            "kept_white": white / before,
        }


def kind(name: str, x, features) -> str:
    """Where a branch's scale comes from: 'encoder' for a raw map of it, 'pooling' for what was pooled, else 'head'."""
    if any(x is feature for feature in features):
        return "encoder"
    return "pooling" if "pool" in name else "head"


def branches(head: nn.Module, variables, features) -> dict[tuple[str, ...], dict[str, tuple[Branch, dict]]]:
    """{path of a site: {branch key: (Branch, without sums; the batch's sums)}}; traced, in training mode.

    Args:
      head: a decoder. features: the maps of an encoder.
    """
    found = {}

    def record(call, args, kwargs, context):
        site = context.module
        if isinstance(site, Fusion) and context.method_name == "__call__" and site.operation != "identity":
            given = args[0] if args else kwargs["branches"]
            size = kwargs.get("size", args[1] if len(args) > 1 else None)
            found[tuple(site.path)] = {
                branch_key(i, name): _measured(name, x, size or x.shape[1:3], features)
                for i, (name, x) in enumerate(given.items())
            }
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        head.apply(variables, features, train=True, mutable=["batch_stats"])
    return found


def _measured(name: str, x, size, features) -> tuple[Branch, dict]:
    x = x.astype(jnp.float32)
    both = [x, resize(x, size)]
    means = [jnp.mean(y, axis=(1, 2), keepdims=True) for y in both]
    deviation = x - means[0]
    neighbours = [
        jnp.mean(deviation[:, 1:] * deviation[:, :-1], axis=(1, 2)) if x.shape[1] > 1 else jnp.zeros(()),
        jnp.mean(deviation[:, :, 1:] * deviation[:, :, :-1], axis=(1, 2)) if x.shape[2] > 1 else jnp.zeros(()),
    ]
    sums = {
        "means": [jnp.sum(mean) for mean in means],
        "squares": [jnp.sum(mean**2) for mean in means],
        "within": [jnp.sum(jnp.var(y, axis=(1, 2))) for y in both],
        "neighbours": [jnp.sum(values) for values in neighbours],
    }
    return Branch(x.shape[1:3], tuple(size), kind(name, x, features), x.shape[3]), jax.tree.map(jnp.float32, sums)


class Meter:
    """Measures the branches of one head, compiled once: (variables, batches of features) -> rows."""

    def __init__(self, head: nn.Module):
        self.head = head
        self._found: dict[tuple[str, ...], dict[str, Branch]] = {}
        self._sums = parallel.jit(self._traced)

    def __call__(self, variables, batches) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
        """{path of a site: {branch key: `Branch.row`}} over all batches, tuples of [b, h, w, c]."""
        total: dict[tuple[str, ...], dict[str, Branch]] = {}
        for features in batches:
            sums = jax.device_get(self._sums(variables, features))
            for path, site in self._found.items():
                for key, blank in site.items():
                    branch = total.setdefault(path, {}).setdefault(key, dataclasses.replace(blank))
                    branch.add(sums["/".join(path)][key], len(features[0]))
        return {path: {key: branch.row() for key, branch in site.items()} for path, site in total.items()}

    def _traced(self, variables, features):
        found = branches(self.head, variables, features)
        self._found = {path: {key: branch for key, (branch, _) in site.items()} for path, site in found.items()}
        return {"/".join(path): {key: values for key, (_, values) in site.items()} for path, site in found.items()}


def shares(site: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How much of a site's disequilibrium is the encoder's, the resize's, the pooling's and the head's: sum 1.

    With s the branches' standard deviations at the site, log s is a sum of parts: what the resize changed, and by how
    much the branch differed before it from a normalised one (NORMALIZED_STD), which is the part of the branch's `kind`.
    A part's share is its covariance with log s over the branches, divided by the variance of log s; it is negative
    where a part makes branches more alike. All are NaN for a single branch, or where no branch differs.
    """
    rows = list(site.values())
    total = np.log([row["std_after"] for row in rows])
    resized = np.log([row["std_after"] / row["std_before"] for row in rows])
    before = np.log([row["std_before"] / NORMALIZED_STD for row in rows])
    parts = {kind: before * [row["kind"] == kind for row in rows] for kind in ("encoder", "pooling", "head")}
    parts["resize"] = resized
    spread = total - total.mean()
    variance = float(np.sum(spread**2))
    return {name: float(np.sum(part * spread)) / variance if variance else math.nan for name, part in parts.items()}
