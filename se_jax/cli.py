"""What the commands share: the --config flag, and flags parsed without tracebacks."""

import sys

from absl import app
from ml_collections import config_flags

from se_jax.config import recipes


def define_config() -> None:
    """Defines --config: a file, or the name of a recipe."""
    config_flags.DEFINE_config_file("config", None, "Of the experiment: configs/camvid_aspp.py, or a recipe's name.")


def parse(argv: list[str]) -> list[str]:
    """absl's parser, for which a recipe's name becomes its file; an option that cannot be ends with a line."""
    try:
        return app.parse_flags_with_usage([_with_file(argument) for argument in argv])
    except FileNotFoundError as error:
        sys.exit(f"--config: {error}")
    except (AttributeError, KeyError, TypeError) as error:
        reason = error.args[0]  # ml_collections wraps the KeyError that says it in an AttributeError
        sys.exit(f"the config has no option {reason.args[0] if isinstance(reason, KeyError) else reason}")


def _with_file(argument: str) -> str:
    flag, _, value = argument.partition("=")
    if flag.lstrip("-") != "config" or not value:
        return argument
    name, colon, variant = value.partition(":")
    return f"{flag}={recipes.path(name)}{colon}{variant}"
