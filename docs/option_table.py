"""Writes the table of every option into docs/training.md: python docs/option_table.py

Defaults are get_config()'s, ranges those of se_jax/config/ranges.py, meanings the comments beside the options in
se_jax/config/{options,optimizers}.py. A test holds the page to what this would write.
"""

import ast
import inspect
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from se_jax.config import optimizers, options, ranges

OWN = ...  # no option of the library's config; the class has a default
PAGE = pathlib.Path(__file__).with_name("training.md")
BEGIN, END = "<!-- written by docs/option_table.py, from here -->", "<!-- to here -->"


def page(text: str) -> str:
    """The page with its table as the code says."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{rest.split(END)[1]}"


def tables() -> str:
    """Markdown: every option of a run, then the fields of encoders, decoders and losses."""
    config, said = options.get_config().to_dict(), _said(options) | _said(optimizers)
    given = dict(_leaves(config))
    rows = {name: (given.get(name), kind.expected, said.get(name, "")) for name, kind in ranges.OPTIONS.items()}
    parts = [_table(rows)]
    for part, kinds, made in (
        ("encoder", ranges.ENCODERS, options.encoder),
        ("decoder", ranges.DECODERS, options.decoder),
    ):
        rows = {}
        for name, fields in kinds.items():
            values = ConfigDict(made(name)).to_dict()  # which makes None of its placeholders
            rows |= {
                f"{name}: {field}": (values.get(field, OWN), kind.expected, said.get(f"{part}.{name}.{field}", ""))
                for field, kind in fields.items()
            }
        parts.append(f"### model.{part}\n\nBy the {part}'s name. `None` is the published size.\n\n{_table(rows)}")
    return "\n".join(parts)


def _table(rows: dict[str, tuple[Any, str, str]]) -> str:
    lines = ["| option | default | may be | meaning |", "| --- | --- | --- | --- |"]
    for name, (default, expected, meaning) in rows.items():
        default = "the class's" if default is OWN else f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
        lines.append(f"| `{name}` | {default} | {_cell(expected)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _leaves(config: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in ranges.OPTIONS:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _said(module) -> dict[str, str]:
    """What comments say of the options of a module's functions: those above an option's line, and the one behind it."""
    source = inspect.getsource(module)
    behind, above = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            (above if alone else behind)[token.start[0]] = token.string.lstrip("# ")

    def comment(line: int, end: int) -> str:
        lines, first = [], line - 1
        while first in above:
            lines.insert(0, above[first])
            first -= 1
        lines += [behind[place] for place in sorted({line, end}) if place in behind]
        return re.sub(r"\s+", " ", " ".join(lines))

    result = {}

    def walk(prefix: str, node: ast.AST, line: int) -> None:
        if isinstance(node, ast.Dict):
            if prefix:
                result[prefix] = comment(line, line)
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    walk(f"{prefix}.{key.value}".lstrip("."), value, key.lineno)
        else:
            result[prefix] = comment(line, getattr(node, "end_lineno", line))

    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        part = {"get_config": "", "sgd": "optimizer"}.get(function.name, function.name)
        if function.name not in ("get_config", "sgd", "data", "model", "encoder", "decoder"):
            continue
        for node in function.body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Return) and isinstance(value, ast.Dict):
                walk("" if function.name in ("encoder", "decoder") else part, value, node.lineno)
            elif isinstance(node, ast.Assign) and value is not None:
                name = ast.unparse(node.targets[0])
                if name.startswith("config."):
                    walk(name.removeprefix("config."), value, node.lineno)
                elif name in ("encoders", "heads"):
                    walk(part, value, node.lineno)
                elif name == "mask2former":
                    walk(f"decoder.{name}", value, node.lineno)
    return result


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
