"""Which fusion sites a network has: found by tracing it, in the order in which they run, so that nobody lists them."""

import fnmatch
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from se_jax.equalizer.fusion import Equalizer, Fusion, branch_key


class Site(NamedTuple):
    """A fusion site of a network.

    Attributes:
      path: names of the modules it lies in and, last, its own.
      branches: branch key -> channels, in the order in which they are fused.
      equalized: whether the network's equalizer selects it, in whatever mode. mode: that of the equalizer.
      per_channel: whether it has one mean and std a channel rather than one a branch.
    """

    path: tuple[str, ...]
    branches: dict[str, int]
    equalized: bool
    mode: str
    per_channel: bool

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else "fusion"


def find_sites(module: nn.Module, *inputs) -> list[Site]:
    """The fusion sites of any Linen module, in the order in which they run; nothing is computed.

    Args:
      inputs: what the module is called with, arrays or jax.ShapeDtypeStructs.

    Raises:
      ValueError: a site runs twice in one pass: it has one set of statistics, which cannot be those of both.
    """
    found: dict[tuple[str, ...], Site] = {}

    def record(call, args, kwargs, context):
        site = context.module
        if isinstance(site, Fusion) and context.method_name == "__call__":
            path = tuple(site.path)
            if path in found:
                raise ValueError(
                    f"fusion site '{'/'.join(path)}' runs twice in one pass, but has one set of statistics; give every "
                    "fusion a Fusion module of its own"
                )
            branches = args[0] if args else kwargs["branches"]
            channels = {branch_key(i, name): x.shape[-1] for i, (name, x) in enumerate(branches.items())}
            equalizer = site.equalizer
            equalized = equalizer.selects(site.name or "", site.default)
            found[path] = Site(path, channels, equalized, equalizer.mode, equalizer.statistics == "channel")
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(module.init, jax.random.key(0)), *inputs)
    return list(found.values())


def check_sites(found: list[Site], equalizer: Equalizer, network: str) -> None:
    """Raises ValueError where `equalizer.sites` names what the network lacks, or where nothing would be equalized.

    Args:
      network: what to call it, e.g. "decoder 'fcn'".
    """
    names = [site.name for site in found]
    if unknown := {name for name in equalizer.sites or () if not fnmatch.filter(names, name)}:
        raise ValueError(
            f"equalizer.sites names {', '.join(sorted(unknown))}, which {network} does not have; "
            f"its fusion sites: {', '.join(names) or 'none'}"
        )
    if equalizer.mode != "none" and not any(site.equalized for site in found):
        named = f"; name one of {', '.join(names)} in equalizer.sites" if names else ""
        raise ValueError(
            f"equalizer.mode is '{equalizer.mode}', but {network} as configured resizes nothing before it "
            f"fuses, so no site is equalized by default{named}, or set equalizer.mode to 'none'"
        )


def identity_statistics(found: list[Site]) -> dict:
    """The collection `equalizer` of an explicit network with mean 0 and std 1 everywhere, which equalizes nothing."""
    return traverse_util.unflatten_dict(
        {
            (*site.path, key): {"mean": jnp.zeros(channels), "std": jnp.ones(channels)}
            for site in found
            if site.equalized and site.mode == "explicit"
            for key, channels in site.branches.items()
        }
    )
