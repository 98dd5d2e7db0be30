"""The config that a run stored, config.json, read from the file: also as the --config of another command."""

from se_jax import run
from se_jax.config.complete import complete
from se_jax.config.types import ConfigDict


def read(path) -> ConfigDict:
    """The config in a JSON file, with the defaults of options that its version did not have; sequences as tuples.

    Raises:
      FileNotFoundError: no such file. ValueError: it holds no config; names the file.
    """
    content = run.read_json(path, object_hook=_with_tuples)
    if not isinstance(content, dict) or not content.keys() & {"data", "model"}:
        raise ValueError(
            f"{path} is no config of a run: it has no options; expected the config.json of a run's workdir"
        )
    return complete(ConfigDict(content))


def get_config(path: str) -> ConfigDict:
    """The same, as ml_collections wants it of the file of a config."""
    return read(path)


def _with_tuples(mapping: dict) -> dict:
    return {key: _tuple(value) for key, value in mapping.items()}


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
