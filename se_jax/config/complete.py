"""Configs that were stored by earlier versions, brought up to this one: the one place that knows their age."""

from ml_collections import config_dict

from se_jax.config import options
from se_jax.config.normalization import IMAGENET
from se_jax.config.types import ConfigDict

RENAMED = {"dupsampling_from": "constants_from"}  # option of an earlier version -> its name today
# Constructed from what is stored: an option that is not there has the default of the class.
CONSTRUCTED = ("encoder", "decoder", "auxiliary")


def complete(stored: ConfigDict) -> ConfigDict:
    """A stored config with the default of every option that its version did not have.

    Options keep the types of the defaults, so that a None can be replaced by a value of the right kind.
    """
    config = options.get_config()
    given = stored.copy_and_resolve_references()
    for old, new in RENAMED.items():
        if old in given:
            given[new] = given[old]
            del given[old]
    if "model" in given and "normalization" not in given.model:
        given.model.normalization = IMAGENET  # earlier versions knew no other
    for part in CONSTRUCTED:
        if "model" in given and part in given.model:
            del config.model[part]
    with config.unlocked():
        _update(config, given)
    return config


def _update(config: ConfigDict, given: ConfigDict) -> None:
    for key, value in given.items():
        if isinstance(value, ConfigDict) and isinstance(config.get(key), ConfigDict):
            _update(config[key], value)
        elif isinstance(value, ConfigDict):
            config[key] = ConfigDict()
            _update(config[key], value)
        elif key not in config:
            config[key] = config_dict.placeholder(object) if value is None else value
        elif value is not None or config.get(key) is not None:
            with config.ignore_type():
                config[key] = value
