import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from se_jax import optimizers


def config(**changes):
    values = {
        "name": "sgd",
        "learning_rate": 0.1,
        "min_learning_rate": 0.0,
        "power": 0.9,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "warmup_steps": 0,
    }
    return ConfigDict(values | changes)


def test_poly_is_the_references(golden):
    case = golden("schedules")
    rate = jax.jit(optimizers.poly_schedule(0.01, 40_000))(case["res/sgd_poly_40k/iter"])
    np.testing.assert_allclose(1e6 * rate, case["res/sgd_poly_40k/lr_x1e6"], rtol=2e-6)


def test_poly_with_warmup_is_the_references(golden):
    case = golden("schedules")
    schedule = optimizers.poly_schedule(6e-5, 160_000, power=1.0, minimum=0.0, warmup_steps=1500)
    rate = jax.jit(schedule)(case["res/adamw_warmup_160k/iter"])
    np.testing.assert_allclose(1e6 * rate, case["res/adamw_warmup_160k/lr_x1e6"], rtol=2e-6, atol=1e-9)


def test_poly_of_one_step_is_defined():
    assert np.isfinite(optimizers.poly_schedule(0.1, 1)(jnp.int32(0)))


def test_sgd_is_torchs():
    tx, schedule = optimizers.build(config(), num_steps=10)
    rng = np.random.default_rng(0)
    weight, buffer = rng.normal(size=5).astype(np.float32), 0
    params = {"w": jnp.asarray(weight)}
    state = tx.init(params)
    for step in range(4):
        gradient = rng.normal(size=5).astype(np.float32)
        updates, state = tx.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        buffer = 0.9 * buffer + gradient + 0.01 * weight
        weight = weight - float(schedule(step)) * buffer
        np.testing.assert_allclose(params["w"], weight, rtol=2e-6, atol=1e-6)


def test_adamw_is_torchs():
    tx, schedule = optimizers.build(config(name="adamw"), num_steps=10)
    rng = np.random.default_rng(0)
    weight, first, second = rng.normal(size=5), 0, 0
    params = {"w": jnp.asarray(weight, jnp.float32)}
    state = tx.init(params)
    for step in range(4):
        gradient, rate = rng.normal(size=5), float(schedule(step))
        updates, state = tx.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        weight = weight * (1 - rate * 0.01)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        corrected = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        weight = weight - rate * first / (1 - 0.9 ** (step + 1)) / corrected
        np.testing.assert_allclose(params["w"], weight, rtol=1e-5, atol=1e-5)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer.name is 'adam'; expected one of sgd, adamw"):
        optimizers.build(config(name="adam"), 10)
