"""Published sizes of an encoder family and the fields that replace them."""

from types import SimpleNamespace
from typing import Any


def variant_sizes(module, variants: dict[str, dict[str, Any]]) -> SimpleNamespace:
    """The sizes of `variants[module.variant]`; a field of `module` that is not None replaces the one of its name.

    Raises:
      ValueError: for a variant that does not exist.
    """
    if module.variant not in variants:
        raise ValueError(
            f"{type(module).__name__} variant is {module.variant!r}; expected one of {', '.join(variants)}."
        )
    sizes = dict(variants[module.variant])
    for name in sizes:
        value = getattr(module, name, None)
        if value is not None:
            sizes[name] = tuple(value) if isinstance(value, list) else value
    return SimpleNamespace(**sizes)
