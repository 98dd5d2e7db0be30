"""What an option names: an entry of a table, or something of the user's own that can be imported."""

import pkgutil
from collections.abc import Mapping
from typing import Any


def lookup(option: str, name, known: Mapping[str, Any]):
    """`known[name]`, or for 'package.module:attribute' what stands there.

    Raises:
      ValueError: it is neither; names the option and what is known.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    if isinstance(name, str) and ":" in name:
        try:
            return pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{option} is {name!r}, which cannot be imported: {error}") from error
    raise ValueError(f"{option} is {name!r}; expected one of {', '.join(known)}")
