"""Recipes are found by name or by path, and a wrong one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair, load_recipe, recipe_names
from llava_moe.errors import UserError

PAGE = '''"""Mine."""
from llava_moe.datatools.prepare.recipe import Part, Recipe
RECIPE = Recipe(name="mine", title="t", source="s", licence="l", get=("wget x",), domain="d", format="llava",
                parts=(Part("train", "a.json", 3), Part("train", "b.json", 4), Part("val", "c.json", None)))
'''


def model_spec_of(**changes: object) -> Recipe:
    fields: dict[str, object] = {"name": "n", "title": "t", "source": "s", "licence": "l", "get": ("wget x",)}
    fields |= {"domain": "d", "format": "llava", "parts": (Part("train", ".", None),)}
    return Recipe(**(fields | changes))  # type: ignore[arg-type]


def test_a_page_of_ones_own_is_loaded_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PAGE)
    recipe = load_recipe(str(tmp_path / "mine.py"))
    assert (recipe.name, recipe.splits) == ("mine", ("train", "val"))
    assert (recipe.expected("train"), recipe.expected("val"), recipe.expected("test")) == (7, None, None)


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(UserError) as refused:
        load_recipe("pathvqas")
    assert "did you mean pathvqa?" in str(refused.value)
    assert all(name in str(refused.value) for name in recipe_names())


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (None, "no such file"),
        ("x = 1", "sets no RECIPE"),
        ("RECIPE = {}", "sets no RECIPE"),
        ("import nothing_of_that_name", "does not run .*nothing_of_that_name"),
        ("RECIPE = (", "does not run .*SyntaxError"),
        (PAGE.replace('domain="d"', 'domain=""'), "does not run .*domain is empty"),
        (PAGE.replace('"val"', '"validation"'), "does not run .*split must be one of train, val, test"),
    ],
)
def test_a_page_that_cannot_be_used_is_refused_in_one_line(page: str | None, told: str, tmp_path: Path) -> None:
    if page is not None:
        (tmp_path / "mine.py").write_text(page)
    with pytest.raises(UserError, match=told) as refused:
        load_recipe(str(tmp_path / "mine.py"))
    assert str(tmp_path / "mine.py") in str(refused.value) and "\n" not in str(refused.value)


def test_expected_is_unknown_where_one_part_does_not_say() -> None:
    assert model_spec_of(parts=(Part("train", "a", 3), Part("train", "b", None))).expected("train") is None


@pytest.mark.parametrize("field", ["name", "title", "source", "licence", "get", "domain", "format", "parts"])
def test_a_recipe_with_an_empty_field_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is empty"):
        model_spec_of(**{field: ()})


def test_a_repair_explains_paths_of_its_pattern_with_its_reasons() -> None:
    repair = Repair("r", "a/*/b?.jpg", ("image_missing", "image_empty"), "fault", "remedy")
    assert repair.explains("a/x/y/b1.jpg", "image_empty")
    assert not repair.explains("a/x/b10.jpg", "image_empty")
    assert not repair.explains("A/x/b1.jpg", "image_empty")
    assert not repair.explains("a/x/b1.jpg", "image_too_large")
    first, second = Repair("first", "*", ("x",), "", ""), Repair("second", "*", ("x", "y"), "", "")
    recipe = model_spec_of(repairs=(first, second))
    assert (recipe.repair("p", "x"), recipe.repair("p", "y"), recipe.repair("p", "z")) == (first, second, None)
