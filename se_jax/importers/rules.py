"""Layout rules: how the tensors of one torch module become leaves of ours."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """Where a tensor goes below its module's path, and how its axes are turned."""

    collection: str
    name: str
    rank: int
    turn: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor


class Rule(NamedTuple):
    """Torch modules whose whole name matches the regular expression `pattern` go to `path`, in the given `layout`."""

    pattern: str
    path: str
    layout: dict[str, Leaf]


def _kernel(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0)  # OIHW -> HWIO; grouped kernels alike, their I is inputs / groups in both


CONV = {"weight": Leaf("params", "kernel", 4, _kernel)}
CONV_BIAS = CONV | {"bias": Leaf("params", "bias", 1)}
NORM = {
    "weight": Leaf("params", "scale", 1),
    "bias": Leaf("params", "bias", 1),
    "running_mean": Leaf("batch_stats", "mean", 1),
    "running_var": Leaf("batch_stats", "var", 1),
}


def conv_block(pattern: str, path: str) -> tuple[Rule, Rule]:
    """The two rules of mmcv's ConvModule."""
    return Rule(rf"{pattern}\.conv", f"{path}/conv", CONV), Rule(rf"{pattern}\.bn", f"{path}/bn", NORM)
