"""The recipes, one experiment a file: `configs/` of a clone, or the copy that a wheel carries."""

import difflib
import importlib.util
import pathlib
from types import ModuleType

from se_jax.config.types import ConfigDict

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def folder() -> pathlib.Path:
    """Where the recipes lie."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """Of all recipes, sorted."""
    return sorted(path.stem for path in folder().glob("*.py"))


def path(recipe: str) -> pathlib.Path:
    """The file of a recipe given by its name, e.g. 'cityscapes_aspp', or by its path.

    Raises:
      FileNotFoundError: there is none; names those that are nearest.
    """
    given = pathlib.Path(recipe)
    found = given if given.suffix else folder() / f"{recipe}.py"
    if not found.is_file():
        near = difflib.get_close_matches(given.stem, names(), cutoff=0.5)
        raise FileNotFoundError(
            f"no config {recipe}: {found} is no file" + (f"; the nearest recipes are {', '.join(near)}" if near else "")
        )
    return found


def module(recipe: str) -> ModuleType:
    """The Python module of a recipe, executed anew."""
    source = path(recipe)
    spec = importlib.util.spec_from_file_location(source.stem, source)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def load(recipe: str) -> ConfigDict:
    """The config of 'NAME' or 'NAME:VARIANT', e.g. load('cityscapes_aspp:r101').

    Raises:
      FileNotFoundError: no such recipe. ValueError: it has no such variant.
    """
    name, _, variant = recipe.partition(":")
    return module(name).get_config(*([variant] if variant else []))
