"""The commands' entry points, for tests."""

import runpy


def main_of(module: str):
    """The `main` of 'se_jax.evaluate' and the like.

    Not by an import: that would put the module in the place of the public name se_jax.evaluate.
    """
    return runpy.run_module(module)["main"]
