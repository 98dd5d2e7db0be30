"""The documentation is true: examples do what they say, commands name what there is, the table is that of the code."""

import doctest
import importlib.util
import pathlib
import re
import runpy
import shlex

import pytest

from se_jax.__main__ import COMMANDS
from se_jax.config import ranges

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a command takes beside what its own source defines: absl's, and --config, which se_jax.cli defines for all
SHARED = {"config", "help", "verbosity", "compilation_cache", "nocompilation_cache"}


def commands(text: str) -> list[str]:
    """The lines of indented and fenced blocks and of `code` that call Python, each whole, without its comment."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?:python -m|se-jax) [a-z_][^`\n]*", text)
    return [re.sub(r"\s{2,}#.*|\s\[--.*", "", line).rstrip(" ;") for line in found]


def is_option(name: str) -> bool:
    """Whether --config.NAME can be: an option of the table, one of a part, or a weight of config.losses."""
    parts = {f"model.{part}" for part in ("encoder", "decoder", "auxiliary")}
    if name in ranges.OPTIONS or name in parts | {"losses", "optimizer"}:
        return True
    part, _, field = name.rpartition(".")
    kinds = ranges.PARTS[part.removeprefix("model.")] if part in parts else {}
    return field == "name" or any(field in fields for fields in kinds.values())


def flags_of(module: str) -> set[str]:
    file = importlib.util.find_spec(module).origin
    if file.endswith("__init__.py"):
        file = str(pathlib.Path(file).with_name("__main__.py"))
    return set(re.findall(r"""(?:DEFINE_\w+|add_argument)\(\s*["'](?:--)?(\w+)["']""", pathlib.Path(file).read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_name_what_there_is(page):
    for line in commands(page.read_text()):
        words = shlex.split(line.replace("'\"", '"').split(" | ")[0], posix=False)
        module = words[2] if words[0] == "python" else COMMANDS.get(words[1], (None,))[0]
        if module in ("venv", "pip", "pytest", None, "se_jax"):
            assert module or words[1] in ("help",), f"{page.name}: {line}: there is no such command"
            continue
        module = re.match(r"[\w.]+", module)[0].rstrip(".")
        assert importlib.util.find_spec(module), f"{page.name}: {line}: there is no module {module}"
        known = SHARED | flags_of(module)
        for flag, value in re.findall(r"--([\w.]+)(?:=(\S*))?", line):
            if flag.startswith("config."):
                assert is_option(flag.removeprefix("config.").rstrip(".")) or flag == "config.a.b", (
                    f"{page.name}: {line}: {flag}"
                )
            else:
                assert flag in known, f"{page.name}: {line}: {module} has no --{flag}"
            recipe = value.split(":")[0].strip("`'\"").removeprefix("configs/").removesuffix(".py")
            if flag == "config" and re.fullmatch(r"[a-z0-9_]+", recipe):
                assert (ROOT / "configs" / f"{recipe}.py").exists(), f"{page.name}: {line}: there is no recipe {recipe}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#\s]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short_and_says_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 8_000
    assert "    make demo" in text and "    make test" in text


def test_the_table_of_options_is_that_of_the_code():
    table = runpy.run_path(str(ROOT / "docs" / "option_table.py"))
    text = table["PAGE"].read_text()
    assert table["page"](text) == text, "docs/training.md is not what the options say; run python docs/option_table.py"


def test_python_examples():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert tried > 20 and not failed
