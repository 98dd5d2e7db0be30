"""What the commands share: the --config flag, flags parsed without tracebacks, and what is not installed, named."""

import contextlib
import logging as std_logging
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from se_jax import run
from se_jax.config import check, recipes

CACHE_SIZE = 4 * 2**30  # bytes of compiled programs; those not used for the longest time make room


def define_config() -> None:
    """Defines --config: a file, the name of a recipe, or what a run stored."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Of the experiment: configs/camvid_aspp.py, a recipe's name, or config.json of a run's workdir. Any of its "
        "options is changed by --config.a.b=value; se_jax/config/options.py has all of them, with their defaults.",
    )
    _show_in_help("config")


def define_cache() -> None:
    """Defines --compilation_cache, which `start` obeys."""
    flags.DEFINE_boolean(
        "compilation_cache",
        True,
        "Keep compiled programs for the next process, in JAX_COMPILATION_CACHE_DIR or ~/.cache/se_jax, at most 4 GB.",
        flag_values=flags.FLAGS,
    )
    _show_in_help("compilation_cache")


def _show_in_help(name: str) -> None:
    """Makes --help of the command that runs show a flag that is defined here."""
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def start(verbosity: int) -> None:
    """What a command does once its flags are parsed: messages for people alone, and compiled programs kept.

    verbosity: of absl's logging, unless --verbosity is given.
    """
    logging.set_verbosity(flags.FLAGS.verbosity if flags.FLAGS["verbosity"].present else verbosity)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Plain())
    handler.addFilter(_is_for_users)
    if "compilation_cache" in flags.FLAGS:
        _keep_compiled(bool(flags.FLAGS["compilation_cache"].value))


def _keep_compiled(wanted: bool) -> None:
    import jax  # only here: flags that cannot be are told of before it is imported

    settings: Any = jax.config
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return  # the user's own choice, by JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE
    place = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "se_jax" / "compiled"
    with contextlib.suppress(OSError):  # a home that cannot be written: everything is compiled anew
        place.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_max_size", CACHE_SIZE)
        jax.config.update("jax_compilation_cache_dir", str(place))


class _Plain(std_logging.Formatter):
    """Messages without date, process and line; warnings and errors say what they are."""

    def format(self, record) -> str:
        name = "" if record.levelno <= std_logging.INFO else f"{record.levelname}: "
        return name + super().format(record)


def _is_for_users(record) -> bool:
    """Not what orbax tells of every step of its work, what JAX tells of backends that are not there, and tracebacks of
    orbax's threads: what goes wrong in them is raised by the run, too."""
    if not any(name in record.pathname for name in ("orbax", "xla_bridge", "asyncio")):
        return True
    return record.levelname == "ERROR" and not record.exc_info


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
    if not _value(argv, "config") and not asks_for_help(argv):
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


def asks_for_help(argv: list[str]) -> bool:
    """Whether an argument is one of absl's flags for help."""
    return bool({"--help", "--helpfull", "--helpshort", "-h"} & set(argv))


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
                raise ValueError(check.unknown(option, check.names(config)))
            node, keys = node[key], [*keys, key]


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
