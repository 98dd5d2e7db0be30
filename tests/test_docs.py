"""The documentation is true: examples do what they say, commands name what there is, the table is that of the code."""

import ast
import doctest
import importlib.util
import json
import pathlib
import re
import runpy
import shlex
import tomllib

import pytest

import se_jax
from se_jax.__main__ import COMMANDS
from se_jax.config import check, ranges, recipes

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOK = ROOT / "notebooks" / "se_jax_colab.ipynb"
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
    text = pathlib.Path(file).read_text()
    shared = re.findall(r"^from (experiments\.\w+) import .*\badd_\w+", text, re.M)  # flags that experiments share
    own = set(re.findall(r"""(?:DEFINE_\w+|add_argument)\(\s*["'](?:--)?(\w+)["']""", text))
    return own.union(*map(flags_of, shared))


def check_command(where: str, line: str) -> None:
    """What a command names is there: its module, its flags, options of the config and their values, recipes."""
    words = shlex.split(line.replace("'\"", '"').split(" | ")[0], posix=False)
    module = words[2] if words[0] == "python" else COMMANDS.get(words[1], (None,))[0]
    if module in ("venv", "pip", "pytest", None, "se_jax"):
        assert module or words[1] in ("help",), f"{where}: {line}: there is no such command"
        return
    module = re.match(r"[\w.]+", module)[0].rstrip(".")
    assert importlib.util.find_spec(module), f"{where}: {line}: there is no module {module}"
    known = SHARED | flags_of(module)
    for flag, value in re.findall(r"""--([\w.]+)(?:=("[^"]*"|'[^']*'|\S*))?""", line):
        option = flag.removeprefix("config.").rstrip(".")
        if flag.startswith("config."):
            assert is_option(option) or flag == "config.a.b", f"{where}: {line}: {flag}"
            check_value(f"{where}: {line}", option, value.strip("'\"`"))
        else:
            assert flag in known, f"{where}: {line}: {module} has no --{flag}"
        recipe, _, variant = value.strip("`'\"").removeprefix("configs/").partition(":")
        recipe = recipe.removesuffix(".py")
        if flag == "config" and re.fullmatch(r"[a-z0-9_]+", recipe):
            assert (ROOT / "configs" / f"{recipe}.py").exists(), f"{where}: {line}: there is no recipe {recipe}"
            assert not variant or recipe == "mine" or recipes.load(f"{recipe}:{variant}"), f"{where}: {line}"


def check_value(where: str, option: str, text: str) -> None:
    """The value is in the option's range; one in capitals, DIR, stands for any."""
    allowed = ranges.OPTIONS.get(option)
    if allowed is None or text.isupper():
        return
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    assert allowed.holds(value), f"{where}: {option} may be {allowed.expected}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_name_what_there_is(page):
    for line in commands(page.read_text()):
        check_command(page.name, line)


def test_commands_in_the_code_name_what_there_is():
    """Those that docstrings of files tell, and those of the notebook."""
    folders = ("se_jax", "data_pipelines", "experiments", "examples")  # tests/test_configs.py has those of configs
    texts = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        texts[str(path.relative_to(ROOT))] = ast.get_docstring(ast.parse(path.read_text())) or ""
    for k, code in enumerate(notebook_cells()):
        texts[f"{NOTEBOOK.name} {k}"] = code.replace("!{sys.executable}", "python")
    found = [(where, line) for where, text in texts.items() for line in commands(text)]
    assert len(found) > 30
    for where, line in found:
        check_command(where, re.sub(r"=\w+(?:\|\w+)+", "", line))  # --format=onnx|tflite


def test_options_that_are_told_of_are_there():
    sections = "|".join({option.partition(".")[0] for option in ranges.OPTIONS if "." in option} - {"model"})
    named = re.compile(rf"`(?:--config\.|config\.)?((?:(?:{sections})|model\.[a-z]+)\.[a-z_.]+[a-z_])(?!\w*\()")
    for page in PAGES:
        for option in named.findall(page.read_text()):
            known = is_option(option) or any(each.startswith(f"{option}.") for each in ranges.OPTIONS)
            assert known, f"{page.name}: there is no option {option}"


def test_targets_scripts_and_extras_are_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        text = page.read_text()
        for target in re.findall(r"(?:^ *|`)make ([a-z]+)", text, re.M):
            assert target in targets, f"{page.name}: make {target}"
        for script in re.findall(r"python ((?:\w+/)+\w+\.py)", text):
            assert (ROOT / script).exists(), f"{page.name}: {script}"
        for extra in re.findall(r"se_jax\[([\w,-]+)\]", text):
            assert set(extra.split(",")) <= set(extras), f"{page.name}: se_jax[{extra}]"


def notebook_cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_can_be_and_was_executed():
    """It is executed by `make notebook`, which takes minutes: here its cells compile, what they name is there, and
    every cell that is not for Colab or an accelerator has been run, in this order and to its end.
    """
    for code in notebook_cells():
        tree = ast.parse(re.sub(r"^[!%].*", "", code, flags=re.M))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("se_jax", "data_pipelines"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    spec = (
                        importlib.util.find_spec(f"{node.module}.{name.name}") if hasattr(module, "__path__") else None
                    )
                    assert hasattr(module, name.name) or spec, f"{node.module}.{name.name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "se_jax":
                assert hasattr(se_jax, node.attr), f"se_jax.{node.attr}"
    config = recipes.load("shapes_uper")
    for option in re.findall(r"\bconfig\.((?:\w+\.)*\w+) = ", "\n".join(notebook_cells())):
        assert option in set(check.names(config)) or option == "model.auxiliary", option
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    run = [cell for cell in cells if "skip-execution" not in cell["metadata"].get("tags", ())]
    assert [cell["execution_count"] for cell in run] == list(range(1, len(run) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


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
