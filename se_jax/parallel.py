"""Devices: the mesh, and what lies where on it.

The mesh has two axes: `data`, over which batches are split, and `model`, over which convolution kernels may be split.
Code is written for the global batch; XLA adds the communication.
"""

import functools
import re

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from se_jax.models import platforms
from se_jax.models.frozen import trained

P = PartitionSpec
# The first rule whose pattern is found in a parameter's path says how its last axes are split, the others are whole.
# Vectors are whole, and need none. They must cover every other parameter of the library's networks.
RULES = (
    (r"(^|/)(tap_bias|bias_table|(softmax|fast)_weights|register_tokens|position)$", P()),
    (r"(^|/)(query|query_feat|query_embed|level_embed|level_encoding)$", P()),
    (r"(^|/)(conv_seg|merge/block/conv|class_head|cls_embed)/kernel$", P()),  # the number of classes seldom divides
    (r"(^|/)kernel$", P("model")),  # outputs, of convolutions and of linear layers
)


def make_mesh(config=None, *, devices=None):
    """A mesh of all devices (or of `devices`) with axes ('data', 'model').

    `config.mesh.model` (1 where there is none) devices share one copy of the kernels.

    Raises:
      ValueError: the number of devices is no multiple of that.
    """
    model = 1 if config is None else config.mesh.model
    devices = jax.devices() if devices is None else devices
    if model < 1 or len(devices) % model:
        raise ValueError(f"mesh.model is {model}, which does not divide the number of devices, {len(devices)}")
    shape = (len(devices) // model, model)
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def jit(fn, *, mesh=None, **kwargs):
    """`jax.jit` with the compiler options a network wants on the platform it is traced for.

    That is the platform of the mesh's devices, which may be another machine's (`jax.experimental.topologies`); without
    a mesh, that of `platforms.for_platform`.
    """
    return _jit(fn, mesh, platforms.compiler_options, kwargs)


def jit_once(fn, *, mesh=None, **kwargs):
    """`jit` of something that runs once, as drawing initial weights: on a CPU compiled fast rather than well."""
    return _jit(fn, mesh, lambda: {"xla_backend_optimization_level": 0} if platforms.on_cpu() else {}, kwargs)


def _jit(fn, mesh, options, kwargs):
    if mesh is None:
        return jax.jit(fn, compiler_options=options(), **kwargs)
    platform = mesh.devices.flat[0].platform

    @functools.wraps(fn)
    def traced(*args):
        with platforms.for_platform(platform):
            return fn(*args)

    with platforms.for_platform(platform):
        return jax.jit(traced, compiler_options=options(), **kwargs)


def replicated(mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def split(mesh) -> NamedSharding:
    """The first axis, that of a batch, over the devices of the data axis."""
    return NamedSharding(mesh, P("data"))


def shard_batch(mesh, batch):
    """This process's part of a batch (a tree of [b / processes, ...]) -> global arrays [b, ...] over the data axis."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _spec(name: str, leaf, rules) -> PartitionSpec | None:
    """How the parameter of that path is split; None where no rule says so."""
    return P() if leaf.ndim < 2 else next((spec for pattern, spec in rules if re.search(pattern, name)), None)


def uncovered(params, rules=RULES) -> list[str]:
    """Paths of the parameters that no rule covers."""
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    return [name for name, leaf in named.items() if _spec(name, leaf, rules) is None]


def param_shardings(mesh, params, rules=RULES, *, fsdp: bool = False):
    """Where every parameter lies: the tree of `params` (arrays or their shapes) with shardings as leaves.

    A parameter that no rule covers, as a network from outside the library may have, is whole where nothing is split.

    Args:
      fsdp: splits every parameter but vectors over the data axis as well, along its longest other axis that divides.

    Raises:
      ValueError: no rule covers a parameter although kernels are split (mesh.model > 1), or its rule splits an axis
        that does not divide. Names the parameter.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = _spec(name, leaf, rules)
        if spec is None and mesh.shape["model"] > 1:
            raise ValueError(
                f"no sharding rule covers parameter {name} {leaf.shape}; add one to se_jax.parallel.RULES, or set "
                "mesh.model=1"
            )
        spec = P(*[None] * (leaf.ndim - len(spec)), *spec) if spec else P()
        sharding = NamedSharding(mesh, spec)
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError as error:
            raise ValueError(
                f"parameter {name} {leaf.shape} cannot be split as {spec} over mesh {dict(mesh.shape)}; "
                "choose another mesh.model"
            ) from error
        return _spread(sharding, leaf.shape) if fsdp else sharding

    return jax.tree_util.tree_map_with_path(place, params)


def _spread(sharding: NamedSharding, shape) -> NamedSharding:
    """`sharding` with one more axis split, over `data`, if there is one that can be."""
    sides, spec = sharding.mesh.shape, [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
    spec = [None if name is None or sides[name] == 1 else name for name in spec]
    free = [i for i, name in enumerate(spec) if name is None and shape[i] % sides["data"] == 0]
    if len(shape) > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = "data"
    return NamedSharding(sharding.mesh, P(*spec))


def state_shardings(mesh, state, tx: optax.GradientTransformation, freeze=(), rules=RULES, *, fsdp: bool = False):
    """Where a TrainState lies: parameters, their average and the optimiser's slots by the rules, the rest whole.

    freeze: config.optimizer.freeze, the parameters that have no slots. fsdp: of `param_shardings`.
    """
    everywhere = replicated(mesh)
    params = param_shardings(mesh, state.params, rules, fsdp=fsdp)
    of_slots = trained(params, freeze)
    slots = optax.tree_utils.tree_map_params(
        tx, lambda _, sharding: sharding, state.opt_state, of_slots, transform_non_params=lambda _: everywhere
    )
    return jax.tree.map(lambda _: everywhere, state)._replace(
        params=params, opt_state=slots, ema=params if state.ema else state.ema
    )


def gathered(mesh, variables: dict) -> dict:
    """A network's variables where it uses them, of a state that is split over the data axis (`fsdp`)."""
    layout = jax.tree.map(lambda _: replicated(mesh), variables)
    return jax.device_put(variables, layout | {"params": param_shardings(mesh, variables["params"])})
