"""Configs that earlier versions stored."""

from ml_collections import ConfigDict

from se_jax.config import options
from se_jax.config.complete import complete
from se_jax.evaluation.protocol import Protocol, protocol


def stored(**changes):
    """A config as JSON brings it back: without types."""
    config = ConfigDict({"eval": {"scale": (64, 32), "batch_size": 2}, "model": {"decoder": {"name": "aspp"}}})
    config.update(changes)
    return config


def test_an_option_that_did_not_exist_has_its_default():
    config = complete(stored())
    assert protocol(config.eval) == Protocol(scale=(64, 32))
    assert config.checkpoint == options.get_config().checkpoint
    config.eval.update(tta=True, mode="slide", window=(8, 8), stride=(8, 8))
    assert protocol(config.eval) == Protocol("slide", (8, 8), (8, 8), True, (64, 32))


def test_what_is_stored_counts():
    config = complete(stored(seed=7, model={"decoder": {"name": "fcn", "channels": None}, "auxiliary": None}))
    assert config.seed == 7 and config.model.auxiliary is None and config.eval.batch_size == 2
    assert config.model.decoder.to_dict() == {"name": "fcn", "channels": None}  # the class has the other defaults
    assert complete(config).to_dict() == config.to_dict()


def test_options_that_are_none_can_be_set():
    config = complete(stored(eval={"scale": None}, model={"decoder": {"name": "vwformer", "channels": None}}))
    assert config.eval.scale is None
    config.eval.scale, config.model.decoder.channels = (64, 32), 64
    assert protocol(config.eval).scale == (64, 32)


def test_an_option_keeps_its_value_under_its_new_name():
    config = complete(stored(dupsampling_from="runs/fit"))
    assert config.constants_from == "runs/fit" and "dupsampling_from" not in config
