"""Names and shapes of checkpoints as other libraries write them, recorded once from tiny networks in `names/*.txt`."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.importers import export_weights
from se_jax.importers.convert import match

NAMES = pathlib.Path(__file__).parent / "names"


def tensors(name: str) -> dict[str, np.ndarray]:
    """Random tensors of the names and shapes in names/<name>.txt, lines of `tensor.name 8 3 3 3`."""
    rng = np.random.default_rng(0)
    lines = map(str.split, (NAMES / f"{name}.txt").read_text().splitlines())
    return {tensor: rng.normal(size=tuple(map(int, shape))).astype(np.float32) for tensor, *shape in lines}


def template(encoder):
    """The shapes of an encoder's variables."""
    return jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def assert_there_and_back(encoder, state_dict: dict[str, np.ndarray], layout: str, skipped: set[str]) -> None:
    """The tensors fill every variable, only those in `skipped` are left out, and the way back gives the same bits."""
    found = match(encoder, state_dict, template(encoder), layout)
    assert (found.kept, found.adapted) == ((), {})
    assert jax.tree.structure(found.variables) == jax.tree.structure(template(encoder))
    assert found.skipped.keys() == skipped
    exported = export_weights(encoder, found.variables, layout)
    assert exported.keys() == state_dict.keys() - skipped
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, state_dict[name], err_msg=name)
