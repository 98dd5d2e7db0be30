"""What eight devices exchange in a training step: counted in the compiled program."""

import collections

import jax
from flax import traverse_util

from experiments import collectives
from experiments.state import share
from se_jax import losses, parallel
from se_jax.config import recipes
from se_jax.models import platforms
from se_jax.training import optimizers, start
from se_jax.training.step import make_train_step
from tests import tiny


def test_exchanges_are_read_from_a_programs_text():
    text = """
      %all-reduce.1 = f32[2,8]{1,0} all-reduce(%a), channel_id=1, to_apply=%add
      %all-reduce-start = (f32[8]{0:T(256)}, bf16[3,3]{1,0:T(2,128)(2,1)}) all-reduce-start(%a, %b), to_apply=%add
      %all-reduce-done = (f32[8]{0}, bf16[3,3]{1,0}) all-reduce-done(%all-reduce-start)
      %all-gather-start = (f32[4]{0}, f32[32]{0}) all-gather-start(%c), dimensions={0}
      ROOT %gather = pred[] get-tuple-element(%all-reduce.1), index=0
    """
    found = collectives.exchanges(text)
    assert found == [("all-reduce", (64,)), ("all-reduce", (32, 18)), ("all-gather", (128,))]
    assert collectives.by_kind(found) == {
        "all-reduce": {"count": 2, "bytes": 114},
        "all-gather": {"count": 1, "bytes": 128},
    }


def compiled_step(model, **mesh):
    """(the compiled step of 16 images of 32 x 32 on eight devices, its state's shapes), as traced for a TPU."""
    config = recipes.load("cityscapes_aspp")
    config.data.crop = (32, 32)
    config.mesh.update(mesh)
    mesh = parallel.make_mesh(config)
    tx, schedule = optimizers.build(config.optimizer, 10)
    state = start.blank_state(config, model, tx, mesh)
    used = parallel.param_shardings(mesh, state.params)
    step = make_train_step(model, tx, schedule, config, losses.build(config.loss, model), (), used)
    shapes = {"image": ((16, 32, 32, 3), "uint8"), "label": ((16, 32, 32), "uint8"), "size": ((16, 2), "int32")}
    batch = {name: jax.ShapeDtypeStruct(*shape, sharding=parallel.split(mesh)) for name, shape in shapes.items()}
    layout = jax.tree.map(lambda leaf: leaf.sharding, state), parallel.replicated(mesh)
    with platforms.for_platform("tpu"):
        return jax.jit(step, donate_argnums=0, out_shardings=layout).lower(state, batch).compile(), state


def test_folded_equalizers_exchange_the_biases_of_taps_and_no_map():
    exchanged = {}
    for mode in ("none", "folded"):
        step, state = compiled_step(tiny.network("psp", mode))
        exchanged[mode] = collectives.by_kind(collectives.exchanges(step.as_text()))["all-reduce"]["bytes"]
    params = traverse_util.flatten_dict(state.params)
    biases = sum(leaf.size for path, leaf in params.items() if "tap_bias" in path)
    assert biases > 0 and exchanged["folded"] - exchanged["none"] == 4 * biases


def test_a_step_exchanges_two_sums_a_norm_and_gathers_parameters_only():
    step, state = compiled_step(tiny.network("aspp", "explicit"), fsdp=True)
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    found = collectives.exchanges(step.as_text())
    assert {each.kind for each in found} == {"all-reduce", "all-gather"}
    reductions = [each for each in found if each.kind == "all-reduce"]
    assert len(reductions) <= 2 * norms  # gradients go along with them
    gathered = collections.Counter(size for each in found if each.kind == "all-gather" for size in each.arrays)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated]
    assert gathered == collections.Counter(leaf.size * 4 for leaf in kernels)
    # parameters and momentum: kernels whose sides eight divides are most of them
    kept = share(state)
    assert kept < 0.2 * sum(leaf.size * 4 for leaf in jax.tree.leaves(state))
    assert kept <= step.memory_analysis().argument_size_in_bytes < 1.2 * kept + 16 * (32 * 32 * 4 + 8)
