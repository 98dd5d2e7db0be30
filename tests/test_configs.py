"""Every config makes a network and passes the checks of a run."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import data_pipelines
from configs import common
from se_jax import optimizers, parallel, train
from se_jax.models import ENCODERS, build

FILES = sorted(
    p.stem for p in pathlib.Path(common.__file__).parent.glob("*.py") if p.stem not in ("__init__", "common")
)


def load(name):
    return importlib.import_module(f"configs.{name}")


def keys(config, path=""):
    """Dotted names of all options."""
    nested = [
        keys(value, f"{path}{key}.") if hasattr(value, "items") else {f"{path}{key}"} for key, value in config.items()
    ]
    return set().union(*nested)


@pytest.mark.parametrize("name", FILES)
def test_config_makes_a_network(name):
    config = load(name).get_config()
    model = build(config.model)
    images = jnp.zeros((1, *config.data.crop, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert variables["equalizer"]
    parallel.param_shardings(parallel.make_mesh(), variables["params"])
    assert jax.eval_shape(model.apply, variables, images)["logits"].shape[-1] == config.model.num_classes


@pytest.mark.parametrize("name", FILES)
def test_config_passes_the_checks(name):
    config = load(name).get_config()
    train.check(config, parallel.make_mesh())
    data_pipelines.check_config(config.data)
    optimizers.build(config.optimizer, config.num_steps)


@pytest.mark.parametrize("name", FILES)
def test_config_has_the_common_options(name):
    theirs = {key for key in keys(common.get_config()) if not key.startswith(("model.encoder.", "model.decoder."))}
    assert theirs <= keys(load(name).get_config())


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_options_are_its_fields_and_apart(name):
    options = ConfigDict(common.encoder(name))
    for key in options:
        assert key == "name" or hasattr(ENCODERS[name], key), key
    unset = [key for key, value in options.items() if value is None]
    values = {key: 8 if key in ("width", "window", "blocks") else 0.1 if key == "drop_path" else (8,) for key in unset}
    for count, key in enumerate(unset, 1):
        options[key] = values[key]  # also of the type that the option may have
        assert [options[k] is None for k in unset].count(True) == len(unset) - count


@pytest.mark.parametrize("name", FILES)
def test_config_says_how_to_run_it(name):
    assert f"python -m se_jax.main --config=configs/{name}.py" in load(name).__doc__


def test_fcn_fuses_four_stages():
    model = build(load("camvid_fcn").get_config().model)
    assert list(model.sites) == ["resize_concat"]
