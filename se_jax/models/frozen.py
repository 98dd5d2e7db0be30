"""Parts of a network that training leaves as they are, by patterns of their parameters' paths: config.optimizer.freeze.

A pattern is a regular expression that is searched for in a path such as 'encoder/blocks_0_0/conv_pw/kernel'. What a
frozen part computes does not change, in training too: its BatchNorms normalise by their running statistics, and nothing
is dropped in it.
"""

import contextlib
import contextvars
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

_PATTERNS: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("frozen", default=())


@contextlib.contextmanager
def frozen(patterns: Sequence[str]) -> Iterator[None]:
    """Networks that are traced within know that these of their parameters are frozen."""
    before = _PATTERNS.set(tuple(patterns))
    try:
        yield
    finally:
        _PATTERNS.reset(before)


def is_frozen(module, *names: str) -> bool:
    """Whether all parameters of these names of a module are frozen; of one without parameters, whether it is."""
    patterns, path = _PATTERNS.get(), "/".join((*module.path, ""))
    return bool(patterns) and all(_is_found(patterns, path + name) for name in names or ("",))


def trained(params: Mapping, patterns: Sequence[str]) -> Any:
    """Nested parameters without those that are frozen.

    Raises:
      ValueError: a pattern is found in no parameter, or all of them are frozen.
    """
    if not patterns:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in flat):
            raise ValueError(
                f"optimizer.freeze has the pattern {pattern!r}, which is found in no parameter; their paths are like "
                f"{next(iter(flat))}"
            )
    kept = {path: leaf for path, leaf in flat.items() if not _is_found(patterns, path)}
    if not kept:
        raise ValueError(
            f"optimizer.freeze is {tuple(patterns)}, which is found in every parameter: nothing is left to train. "
            "Leave a pattern out"
        )
    return traverse_util.unflatten_dict(kept, sep="/")


def part_of(params, like) -> Any:
    """Those of nested parameters that the tree `like` has, too."""
    if jax.tree.structure(params) == jax.tree.structure(like):
        return params
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: flat[path] for path in traverse_util.flatten_dict(like)})


def merged(params, part) -> Any:
    """Nested parameters with those of `part` in their places."""
    if jax.tree.structure(params) == jax.tree.structure(part):
        return part
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(params) | traverse_util.flatten_dict(part))


def _is_found(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)
