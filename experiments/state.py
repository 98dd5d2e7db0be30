"""What of a recipe's training state a chip keeps, by the layouts that a mesh offers.

python -m experiments.state --configs=ade20k_swin_uper:base --encoder=large --devices=8

Counted from shapes and their shardings: nothing is compiled or run. The state is all that training keeps from step to
step, in float32: parameters, their average where the recipe has one, the optimiser's slots, running statistics. Beside
it a step needs images, activations and gradients (`python -m experiments.tpu` compiles them).
"""

import argparse
import math

import jax

from se_jax import parallel
from se_jax.config import recipes
from se_jax.models import build
from se_jax.training import optimizers, start

LAYOUTS = {
    "whole": {},
    "mesh.model=2": {"model": 2},
    "mesh.model=8": {"model": 8},
    "mesh.fsdp": {"fsdp": True},
    "mesh.fsdp, mesh.model=2": {"model": 2, "fsdp": True},
}


def share(tree) -> int:
    """Bytes that a device keeps of arrays, or of jax.ShapeDtypeStructs with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def kept(config, devices) -> dict[str, int]:
    """Bytes that each of the devices keeps of the state and, of it, of the parameters; and how many parameters."""
    mesh = parallel.make_mesh(config, devices=devices)
    tx, _ = optimizers.build(config.optimizer, config.num_steps)
    state = start.blank_state(config, build(config.model), tx, mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {"state": share(state), "parameters": share(state.params), "count": count}


def table(name: str, devices, encoder: str = "") -> str:
    """Markdown rows of a recipe, one a layout; a layout that cannot be says so.

    encoder: a variant of the encoder, in the place of the recipe's.
    """
    rows = []
    for layout, options in LAYOUTS.items():
        config = recipes.load(name)
        config.mesh.update(options)
        if encoder:
            config.model.encoder.variant = encoder
        try:
            found = kept(config, devices)
        except ValueError as error:
            rows.append(f"| `{name}` | {layout} | {error} | |")
            continue
        sizes = (f"{found[key] / 2**30:.3f}" for key in ("state", "parameters"))
        rows.append(f"| `{name}`, {found['count'] / 1e6:.0f} M | {layout} | {' | '.join(sizes)} |")
    return "\n".join(rows)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.state", description=__doc__.split("\n")[0])
    parser.add_argument("--configs", required=True, help="recipes, name or name:variant, with commas")
    parser.add_argument("--encoder", default="", help="variant of the encoder, in the place of the recipe's")
    parser.add_argument("--devices", type=int, default=8)
    flags = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", flags.devices)
    print("| recipe, parameters | layout | state a chip, GiB | of it parameters, GiB |\n| --- | --- | --- | --- |")
    for name in flags.configs.split(","):
        print(table(name, jax.devices(), flags.encoder), flush=True)


if __name__ == "__main__":
    main()
