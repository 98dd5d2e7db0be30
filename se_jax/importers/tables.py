"""Which layouts each family of networks can be read from and written to."""

from se_jax.importers import heads, resnet
from se_jax.models import decoders
from se_jax.models.encoders import ResNet

# encoder class -> layout -> table of an encoder
ENCODERS = {
    ResNet: {"mmseg": resnet.mmseg, "torchvision": resnet.mmseg, "timm": resnet.timm},
}
HEADS = tuple(getattr(decoders, name) for name in decoders.__all__)
LAYOUTS = ("mmseg", "timm", "torchvision", "official")


def tables_of(module) -> dict:
    """Layout -> function that makes the table, for an encoder or a head.

    Raises:
      TypeError: for a module of neither kind.
    """
    if isinstance(module, HEADS):
        return {"mmseg": heads.mmseg}
    if type(module) not in ENCODERS:
        raise TypeError(f"{type(module).__name__} has no import table; there are some for {_names()}")
    return ENCODERS[type(module)]


def _names() -> str:
    return ", ".join(cls.__name__ for cls in (*ENCODERS, *HEADS))
