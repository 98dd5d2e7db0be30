"""Networks by name: 'resnet50', 'swin_tiny' and the like under 'uper', 'aspp', ...: those of `from_config`'s tables."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from se_jax.models.encoders import convnext, efficientnet, hrnet, mit, resnet, swin, twins, vit, xception
from se_jax.models.from_config import DECODERS, ENCODERS

VARIANTS: dict[str, Iterable[str]] = {
    "convnext": convnext.VARIANTS,
    "efficientnet": efficientnet.VARIANTS,
    "hrnet": hrnet.VARIANTS,
    "mit": mit.VARIANTS,
    "swin": swin.VARIANTS,
    "twins": twins.VARIANTS,
    "vit": vit.VARIANTS,
}


def _encoders() -> dict[str, dict[str, Any]]:
    """{name: what config.model.encoder says of it}."""
    found: dict[str, dict[str, Any]] = {}
    for family in ENCODERS:
        if family == "resnet":
            found |= {f"resnet{depth}": {"name": family, "depth": depth} for depth in sorted(resnet.BLOCKS)}
        elif family == "xception":
            found |= {f"xception{variant}": {"name": family, "variant": variant} for variant in xception.VARIANTS}
        elif family == "vit":  # dinov2_small, vit_base
            names = ((each if each.startswith("dino") else f"vit_{each}", each) for each in vit.VARIANTS)
            found |= {name: {"name": family, "variant": each} for name, each in names}
        elif family in VARIANTS:
            found |= {f"{family}_{each}": {"name": family, "variant": each} for each in VARIANTS[family]}
        else:
            found[family] = {"name": family}
    return found


def list_encoders() -> list[str]:
    """Names of the encoders that `se_jax.create` and `se_jax.train` take, e.g. 'resnet50'."""
    return list(_encoders())


def list_heads() -> list[str]:
    """Names of the heads that `se_jax.create` and `se_jax.train` take, e.g. 'uper'."""
    return list(DECODERS)


def find_encoder(encoder) -> dict[str, Any]:
    """The options of an encoder given by its name, or as options, {'name': 'resnet', 'depth': 18, 'width': 16}.

    Raises:
      ValueError: no such name; says which are nearest.
    """
    if isinstance(encoder, Mapping):
        return dict(encoder)
    return {"name": encoder} if ":" in str(encoder) else dict(_encoders()[_known("encoder", encoder, list_encoders())])


def find_head(head) -> dict[str, Any]:
    """The options of a head given by its name, or as options, {'name': 'uper', 'channels': 64}.

    Raises:
      ValueError: no such name; says which are nearest.
    """
    if isinstance(head, Mapping):
        return dict(head)
    return {"name": head if ":" in str(head) else _known("head", head, list_heads())}


def _known(kind: str, name, known: list[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"there is no {kind} {name!r}{hint} se_jax.list_{kind}s() has all {len(known)}")
