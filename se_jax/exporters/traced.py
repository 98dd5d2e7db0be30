"""What every format writes."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Traced(NamedTuple):
    """A network's prediction as a function, and what goes with it.

    Attributes:
      function: uint8 [b, h, w, 3] -> uint8 [b, h, w], or float32 [b, h, w, K].
      shape: of its input, with None for any batch.
      output: the name of its result, 'ids' or 'probabilities'.
      metadata: classes, palette, config, versions.
    """

    function: Callable[..., Any]
    shape: tuple[int | None, int, int, int]
    output: str
    metadata: dict[str, Any]
