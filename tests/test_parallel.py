import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from se_jax import parallel
from se_jax.models import platforms
from se_jax.training import state

PARAMS = {
    "encoder": {"stem": {"kernel": jnp.ones((3, 3, 3, 8))}, "bn": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}},
    "conv_seg": {"kernel": jnp.ones((1, 1, 8, 11)), "bias": jnp.zeros(11)},
}


def config(model):
    return ConfigDict({"mesh": {"model": model}})


def test_the_mesh_has_all_devices():
    assert dict(parallel.make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(parallel.make_mesh(config(2)).shape) == {"data": 4, "model": 2}


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="mesh.model is 3, which does not divide the number of devices, 8"):
        parallel.make_mesh(config(3))


def test_batches_are_split_over_the_data_axis():
    batch = parallel.shard_batch(parallel.make_mesh(config(2)), {"image": np.arange(16).reshape(8, 2)})
    assert batch["image"].sharding.spec == P("data")
    assert batch["image"].addressable_shards[0].data.shape == (2, 2)
    np.testing.assert_array_equal(batch["image"], np.arange(16).reshape(8, 2))


def test_rules_split_kernels_and_nothing_else():
    shardings = parallel.param_shardings(parallel.make_mesh(config(2)), PARAMS)
    assert shardings["encoder"]["stem"]["kernel"].spec == P(None, None, None, "model")
    assert shardings["encoder"]["bn"]["scale"].spec == P()
    assert shardings["conv_seg"]["kernel"].spec == P()


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"no sharding rule covers parameter head/table \(4, 4\)"):
        parallel.param_shardings(parallel.make_mesh(config(2)), {"head": {"table": jnp.ones((4, 4))}})


def test_a_parameter_without_a_rule_is_whole_where_nothing_is_split():
    params = {"head": {"table": jnp.ones((4, 4)), "kernel": jnp.ones((4, 4)), "offset": jnp.ones(4)}}
    assert parallel.uncovered(params) == ["head/table"]
    assert parallel.param_shardings(parallel.make_mesh(), params)["head"]["table"].is_fully_replicated


def test_a_kernel_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"parameter head/kernel .* cannot be split"):
        parallel.param_shardings(parallel.make_mesh(config(2)), {"head": {"kernel": jnp.ones((1, 1, 4, 5))}})


def test_state_is_made_sharded():
    mesh = parallel.make_mesh(config(2))
    tx = optax.sgd(0.1, momentum=0.9)

    def init():
        return state.create({"params": PARAMS, "batch_stats": {"mean": jnp.zeros(8)}}, tx, keep_ema=True)

    shardings = parallel.state_shardings(mesh, jax.eval_shape(init), tx)
    born = parallel.jit(init, out_shardings=shardings)()
    kernels = [x for x in jax.tree.leaves(born) if x.shape == (3, 3, 3, 8)]
    assert len(kernels) == 3  # the parameter, its momentum and its average
    assert all(x.addressable_shards[0].data.shape == (3, 3, 3, 4) for x in kernels)
    assert born.step.sharding.is_fully_replicated
    assert born.batch_stats["mean"].sharding.is_fully_replicated


def test_fsdp_splits_the_longest_axis_that_divides():
    def specs(model):
        shardings = parallel.param_shardings(parallel.make_mesh(config(model)), PARAMS, fsdp=True)
        return [shardings["encoder"]["stem"]["kernel"].spec, shardings["conv_seg"]["kernel"].spec]

    assert specs(1) == [P(None, None, None, "data"), P(None, None, "data", None)]
    assert specs(2) == [P(None, None, None, "model"), P(None, None, "data", None)]  # no side but 8 divides by 4
    shardings = parallel.param_shardings(parallel.make_mesh(), PARAMS, fsdp=True)
    assert shardings["encoder"]["bn"]["scale"].is_fully_replicated


def test_a_mesh_decides_for_which_platform_is_traced():
    class Device:
        platform = "tpu"

    class Mesh:
        devices = np.array([Device()])

    def program(mesh):
        return parallel.jit(lambda x: platforms.on_cpu() + x, mesh=mesh)(0)

    assert [bool(program(mesh)) for mesh in (parallel.make_mesh(), Mesh())] == [True, False]
