import jax
import jax.numpy as jnp
import numpy as np
import optax

from se_jax.training import state

VARIABLES = {
    "params": {"w": jnp.array([1.0, 2.0])},
    "batch_stats": {"mean": jnp.zeros(2)},
    "equalizer": {"site": {"mean": jnp.ones(2)}},
    "dupsampling": {"kernel": jnp.ones((2, 3))},
}


def test_a_state_gives_its_variables_back():
    created = state.create(VARIABLES, optax.sgd(0.1))
    assert created.step == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, state.variables(created), VARIABLES))


def test_variables_without_equalizers_have_no_equalizer_collection():
    created = state.create({"params": VARIABLES["params"], "batch_stats": VARIABLES["batch_stats"]}, optax.sgd(0.1))
    assert sorted(state.variables(created)) == ["batch_stats", "params"]


def test_update_steps_the_parameters_and_their_average():
    tx = optax.sgd(0.5)
    grads, stats = {"w": jnp.array([2.0, 2.0])}, {"mean": jnp.ones(2)}
    after = state.update(state.create(VARIABLES, tx, keep_ema=True), grads, stats, tx, ema_decay=0.75)
    assert after.step == 1
    np.testing.assert_array_equal(after.params["w"], [0.0, 1.0])
    np.testing.assert_array_equal(after.ema["w"], [0.75, 1.75])
    np.testing.assert_array_equal(after.batch_stats["mean"], [1.0, 1.0])
    assert after.constants == {name: VARIABLES[name] for name in ("equalizer", "dupsampling")}
    np.testing.assert_array_equal(state.variables(after)["params"]["w"], [0.0, 1.0])
    np.testing.assert_array_equal(state.variables(after, averaged=True)["params"]["w"], [0.75, 1.75])


def test_a_state_with_an_average_can_be_donated():
    tx = optax.sgd(0.5)
    created = state.create(jax.tree.map(jnp.copy, VARIABLES), tx, keep_ema=True)
    step = jax.jit(lambda s: state.update(s, s.params, s.batch_stats, tx, 0.9), donate_argnums=0)
    assert step(created).step == 1
