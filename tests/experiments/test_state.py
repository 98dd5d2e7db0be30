"""What a chip keeps of a state, counted from shapes: everything, or its part of what a mesh splits."""

import jax
import jax.numpy as jnp
import pytest

from experiments import state
from se_jax.config import recipes
from se_jax.models import build


def test_layouts_split_what_they_say(capsys):
    state.main(["--configs=shapes_uper", "--devices=8"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(state.LAYOUTS) and all(line.startswith("| `shapes_uper`, ") for line in lines[2:])

    config = recipes.load("shapes_uper")
    config.model.equalizer.mode = "none"

    def kept(**mesh):
        config.mesh.update({"model": 1, "fsdp": False} | mesh)
        return state.kept(config, jax.devices())

    whole = kept()
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert whole["count"] == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert whole["parameters"] == 4 * whole["count"]
    # parameters and momentum of SGD, both of which are split, and running statistics, which are not
    running = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes["batch_stats"]))
    assert whole["state"] == pytest.approx(2 * whole["parameters"] + running, abs=8)
    halves, eighths = kept(model=2)["parameters"], kept(fsdp=True)["parameters"]
    assert 0.5 <= halves / whole["parameters"] < 0.6 and 0.125 <= eighths / whole["parameters"] < 0.2


def test_a_layout_that_cannot_be_says_so():
    lines = state.table("shapes_uper", jax.devices()[:4]).splitlines()
    assert sum("mesh.model is 8" in line for line in lines) == 1
