"""How options are read on the command line: as ml_collections reads them by type, and None for those that are optional.

Whether an option may be None is said by its range (`se_jax.config.ranges`). Importing this module makes ml_collections
use these parsers; `se_jax.config.options` does, so that they hold wherever a recipe's config is read.
"""

import ast

from absl import flags
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import tuple_parser


class _OrNone(flags.ArgumentParser):
    """The parser of a type, by which 'None' is None."""

    def __init__(self, parse, kind: str, example: str):
        self._parse, self.kind, self.example = parse, kind, example

    def parse(self, argument):
        if argument == "None":
            return None
        try:
            return self._parse(argument)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"expected {self.kind}, e.g. {self.example}") from error

    def flag_type(self):
        return self.kind


def _options(argument):
    """'{...}' as options; a ConfigDict as it is."""
    if isinstance(argument, config_dict.ConfigDict):
        return argument
    value = ast.literal_eval(argument)
    if not isinstance(value, dict):
        raise ValueError
    return config_dict.ConfigDict(value)


def _any(argument):
    """A Python value, text where it is none, options where it is a dict."""
    if not isinstance(argument, str):
        return argument
    try:
        value = ast.literal_eval(argument)
    except (SyntaxError, ValueError):
        return argument
    return config_dict.ConfigDict(value) if isinstance(value, dict) else value


for _type, _parser in {
    bool: _OrNone(flags.BooleanParser().parse, "True or False", "True"),
    int: _OrNone(flags.IntegerParser().parse, "a whole number", "8"),
    float: _OrNone(flags.FloatParser().parse, "a number", "0.1"),
    str: _OrNone(str, "text", "name"),
    tuple: _OrNone(tuple_parser.TupleParser().parse, "values with commas between them", '"(64, 64)"'),
    config_dict.ConfigDict: _OrNone(_options, "options", "\"{'name': 'sgd'}\""),
    type(None): _OrNone(_any, "a value", "8"),
}.items():
    config_flags.register_flag_parser_for_type(_type, _parser)
