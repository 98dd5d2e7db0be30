"""The config.json of a run, as ml_collections wants the file of a config: --config=stored.py:PATH."""

import json

from ml_collections import ConfigDict


def get_config(path: str) -> ConfigDict:
    """The stored options, sequences as tuples. Raises ValueError where the file holds none; names it."""
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no config of a run: {error}") from error
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(f"{path} is no config of a run: it has no options of data")
    return ConfigDict({key: _tuples(value) for key, value in content.items()})


def _tuples(value):
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
