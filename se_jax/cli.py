"""What the commands share: the --config flag, flags parsed without tracebacks, and what is not installed, named."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from absl import app
from ml_collections import config_flags

from se_jax.config import recipes


def define_config() -> None:
    """Defines --config: a file, or the name of a recipe."""
    config_flags.DEFINE_config_file("config", None, "Of the experiment: configs/camvid_aspp.py, or a recipe's name.")


def parse(argv: list[str]) -> list[str]:
    """absl's parser, for which a recipe's name becomes its file; an option that cannot be ends with a line."""
    try:
        return app.parse_flags_with_usage(list(with_files(argv)))
    except FileNotFoundError as error:
        sys.exit(f"--config: {error}")
    except (AttributeError, KeyError, TypeError) as error:
        reason = error.args[0]  # ml_collections wraps the KeyError that says it in an AttributeError
        sys.exit(f"the config has no option {reason.args[0] if isinstance(reason, KeyError) else reason}")


def with_files(argv: list[str]) -> Iterator[str]:
    """The arguments, with the file of a recipe in the place of its name: --config=NAME:VARIANT, --config NAME.

    Raises:
      FileNotFoundError: there is no such recipe or file.
    """
    follows = False
    for argument in argv:
        flag, equals, value = argument.partition("=")
        given = flag.lstrip("-") == "config" and flag.startswith("-")
        if follows or (given and value):
            name, colon, variant = (argument if follows else value).partition(":")
            argument = f"{'' if follows else flag + equals}{recipes.path(name)}{colon}{variant}"
        follows = given and not equals
        yield argument


@contextlib.contextmanager
def ending(command: str) -> Iterator[None]:
    """Around the work of a command: Ctrl-C, or a signal that a run obeyed, ends it with a line and 128 + the signal."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(f"{command}: {interrupt if interrupt.args else 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signal", signal.SIGINT))


@contextlib.contextmanager
def reading_data() -> Iterator[None]:
    """Around imports of what reads data sets: where it is not installed, the command ends with a line that says how."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("se_jax", "data_pipelines"):
            raise
        sys.exit(
            f"this command reads a data set, and {error.name} is not installed. "
            'pip install "se_jax[data]"; on a machine that has a tensorflow already: "se_jax[own-tensorflow]"'
        )
