"""The recipes, one experiment a file: `configs/` of a clone, or the copy that a wheel carries."""

import difflib
import pathlib
import runpy
from types import SimpleNamespace

from se_jax.config import stored
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


def module(recipe: str) -> SimpleNamespace:
    """What the file of a recipe defines."""
    return SimpleNamespace(**runpy.run_path(str(path(recipe))))


def file(recipe: str) -> str:
    """The 'FILE.py' or 'FILE.py:ARGUMENT' whose get_config makes the config of a recipe, or of a run's config.json.

    Raises:
      FileNotFoundError: there is none; names those that are nearest.
    """
    if recipe.endswith(".json"):
        return f"{stored.__file__}:{recipe}"
    name, colon, variant = recipe.partition(":")
    return f"{path(name)}{colon}{variant}"


def load(recipe: str) -> ConfigDict:
    """The config of 'NAME' or 'NAME:VARIANT', e.g. load('cityscapes_aspp:r101'), or of a run's config.json.

    Raises:
      FileNotFoundError: no such recipe or file. ValueError: it has no such variant, or the file holds no config.
    """
    name, _, variant = file(recipe).partition(":")
    defined = module(name)
    if not hasattr(defined, "get_config"):
        raise ValueError(f"{name} is no config: it defines no function get_config()")
    return defined.get_config(*([variant] if variant else []))
