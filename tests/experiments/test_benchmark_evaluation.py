"""The benchmark of evaluations, on two small generated images."""

import json

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import benchmark_evaluation
from se_jax.config import datasets, options, recipes
from tests import tiny


@pytest.fixture
def settings_of_jax():
    """Its cache of compiled programs as it was before the test."""
    names = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("settings_of_jax")
def test_three_ways_are_timed_and_told(monkeypatch, capsys):
    config = datasets.shapes(options.decoder("aspp", channels=4, dilations=(1, 2)), **tiny.ENCODER)
    config.data.update(image_size=(32, 32), crop=(32, 32), num_train=2, num_val=2)
    config.model.auxiliary.channels = 4
    monkeypatch.setattr(recipes, "load", lambda name: config)
    result = benchmark_evaluation.main(["--config=small", "--dir=DIR", "--rounds=1"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"way"')]
    assert [one["way"] for one in told] == [*benchmark_evaluation.WAYS]
    assert all(one["networks"] == 1 for one in told)
    assert result["seconds"] == {one["way"]: one["seconds"] for one in told}
    assert (result["images"], result["networks"]) == (2, 1)
    assert result["to one by one"]["kept"] == result["seconds"]["kept"] / result["seconds"]["one by one"]
