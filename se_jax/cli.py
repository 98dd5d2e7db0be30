"""What the commands share: the --config flag, flags parsed without tracebacks, and what is not installed, named."""

import contextlib
import pathlib
import re
import signal
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import config_flags

from se_jax import run
from se_jax.config import check, recipes


def define_config() -> None:
    """Defines --config: a file, the name of a recipe, or what a run stored."""
    config_flags.DEFINE_config_file(
        "config", None, "Of the experiment: configs/camvid_aspp.py, a recipe's name, or config.json of a run's workdir."
    )


def parse(argv: list[str]) -> list[str]:
    """absl's parser, for which a recipe's name becomes its file; an option that cannot be ends with a line."""
    try:
        given = list(with_files(argv))
        if file := _value(argv, "config"):
            check_names(recipes.load(file), argv)
        return flags.FLAGS(given)
    except flags.Error as error:
        sys.exit(f"{_command(argv)}: {' '.join(str(error).split())}")
    except (OSError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{_command(argv)}: --config: {error}")


def parse_to_go_on(argv: list[str]) -> list[str]:
    """The same for a command that goes on with what is in --workdir: without --config it has that of the run there."""
    if not _value(argv, "config") and not {"--help", "--helpfull", "--helpshort", "-h"} & set(argv):
        workdir = _value(argv, "workdir")
        if not workdir:
            sys.exit(
                f"{_command(argv)}: --workdir must have a value, and --config too where no run is there. Give "
                "--config=FILE, a recipe or a run's config.json, and --workdir=DIR"
            )
        path = pathlib.Path(workdir) / run.CONFIG
        if not path.is_file():
            sys.exit(
                f"{_command(argv)}: there is no --config, and no run in {workdir} to go on with ({path} does not "
                "exist). Give --config=FILE, a recipe or a run's config.json"
            )
        argv = [argv[0], f"--config={path}", *argv[1:]]
    return parse(argv)


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
            argument = f"{'' if follows else flag + equals}{recipes.file(argument if follows else value)}"
        follows = given and not equals
        yield argument


def check_names(config, argv: list[str]) -> None:
    """Raises ValueError where an argument --config.a.b=value names an option that the config does not have."""
    for argument in argv[1:]:
        if (found := re.match(r"--?(?:no)?config\.([\w.]+)(?:=|$)", argument)) is None:
            continue
        option, node, keys = found[1], config, []
        for key in option.split("."):
            if node is None:
                raise ValueError(
                    f"the config has no option {option}: {'.'.join(keys)} is None. Leave it out, or give all of it in "
                    f"one: --config.{'.'.join(keys)}=\"{{'{key}': ..., ...}}\""
                )
            if not hasattr(node, "keys"):
                raise ValueError(
                    f"the config has no option {option}: {'.'.join(keys)} is {node!r}, which has no options"
                )
            if key not in node:
                raise ValueError(check.unknown(option, _names(config)))
            node, keys = node[key], [*keys, key]


def _names(config, above: str = "") -> Iterator[str]:
    """The dotted names of all options of a config."""
    for key, value in config.items():
        if hasattr(value, "keys"):
            yield from _names(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _value(argv: list[str], name: str) -> str:
    """What is given for a flag, '' where it is not: --name=value or --name value."""
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            return value if equals else following
    return ""


def _command(argv: list[str]) -> str:
    """How its messages begin: se_jax.main, se_jax.importers."""
    path = pathlib.Path(argv[0])
    return f"{path.parent.name}.{path.stem}".removesuffix(".__main__")


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
