"""Recipes by name and by path."""

import pytest

from se_jax.config import recipes
from se_jax.config.lookup import lookup


def test_a_recipe_is_found_by_name_and_by_path():
    by_name = recipes.load("cityscapes_aspp:r101")
    by_path = recipes.load(f"{recipes.folder() / 'cityscapes_aspp.py'}:r101")
    assert by_name == by_path and by_name.model.encoder.depth == 101


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="no config cityscape_asp: .*nearest recipes are cityscapes_aspp"):
        recipes.path("cityscape_asp")
    with pytest.raises(FileNotFoundError, match="no config nowhere/x.py"):
        recipes.path("nowhere/x.py")


def test_what_an_option_names_is_known_or_can_be_imported():
    assert lookup("model.x", "a", {"a": 1}) == 1
    assert lookup("model.x", "math:pi", {"a": 1}) == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(ValueError, match="model.x is 'b'; expected one of a"):
        lookup("model.x", "b", {"a": 1})
    for wrong in ("nowhere:thing", "math:thing"):
        with pytest.raises(ValueError, match=f"model.x is '{wrong}', which cannot be imported"):
            lookup("model.x", wrong, {})
