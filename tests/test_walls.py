"""The walls between the rooms: what may import what."""

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = ("se_jax", "data_pipelines")
# room -> what its modules may import of the package, besides its own; upper rooms know lower ones only
ROOMS = {
    "config": {"run"},
    "models": {"config", "equalizer"},  # a head holds fusions
    "equalizer": {"models"},  # a fusion is made of layers
    "losses": {"config", "models"},
    "run": set(),
    "parallel": {"models"},
    "progress": set(),
    "multihost": set(),
    "constants": {"run"},
    "checksums": set(),
    "checkpoints": {"checksums", "config", "parallel", "run", "run_config"},
    "run_config": {"config", "run"},
    "importers": {"checkpoints", "cli", "config", "models", "parallel", "run", "run_config"},
    "evaluation": {
        *(
            "checkpoints",
            "config",
            "equalizer",
            "importers",
            "losses",
            "models",
            "parallel",
            "progress",
            "report",
            "run",
        ),
    },
    "exporters": {"evaluation", "models", "run"},
    "report": {"run"},
    "dupsampling": {"config", "constants", "evaluation", "losses", "models", "run"},
    "training": {
        *("checkpoints", "config", "constants", "equalizer", "evaluation", "importers", "losses", "models"),
        *("multihost", "parallel", "progress", "report", "run", "run_config"),
    },
    "cli": {"config", "run"},
}
# nobody imports these
COMMANDS = (
    "main",
    "evaluate",
    "export",
    "predict",
    "compare",
    "sweep",
    "dupsample_fit",
    "__main__",
    "importers.__main__",
)


@functools.cache
def modules():
    """{module name: {names of modules that it imports, also within functions}}."""
    found = {}
    for package in LIBRARY:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    graph = {}
    for name, path in found.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                ours = (node.module or "").split(".")[0] in LIBRARY
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    imported.add(full if full in found or not ours else node.module)
        graph[name] = imported
    return graph


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_make_no_circle():
    graph, done, way = modules(), set(), []

    def visit(name):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            way.append(name)
            for other in sorted(graph[name] & graph.keys()):
                visit(other)
            way.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


def test_rooms_import_only_what_lies_below_them():
    for name, imported in modules().items():
        if not name.startswith("se_jax.") or name.removeprefix("se_jax.") in COMMANDS:
            continue
        rooms = {room(other) for other in imported if other.startswith("se_jax.")} - {room(name)}
        assert rooms <= ROOMS[room(name)], (name, rooms - ROOMS[room(name)])


def test_nobody_imports_a_command():
    for name, imported in modules().items():
        for command in COMMANDS:
            assert f"se_jax.{command}" not in imported, name


def test_the_library_knows_neither_recipes_nor_experiments_nor_tests():
    for name, imported in modules().items():
        assert not {other.split(".")[0] for other in imported} & {"configs", "experiments", "tests"}, name


def test_data_pipelines_know_nothing_of_the_library():
    for name, imported in modules().items():
        if name.startswith("data_pipelines"):
            assert not any(other.split(".")[0] == "se_jax" for other in imported), name


def test_big_libraries_stay_in_their_rooms():
    for name, imported in modules().items():
        for other in imported:
            top = other.split(".")[0]
            if top == "flax" and not other.startswith("flax.traverse_util"):
                assert re.match(r"se_jax\.(models|equalizer)\b", name), name
            if top in ("tensorflow", "tensorflow_datasets", "array_record"):
                assert name.startswith("data_pipelines") or name == "se_jax.exporters.tensorflow", name
            if top == "orbax":
                assert name == "se_jax.checkpoints", name


def test_the_trainer_names_no_decoder_and_no_file():
    for path in (ROOT / "se_jax" / "training").glob("*.py"):
        words = path.read_text().lower()
        assert not [word for word in ("dupsampling", "codes", "equalizer.json") if word in words], path
