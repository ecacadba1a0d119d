"""Recipes by name, from a user's own file, or recorded. A new recipe is a file here and a line in `RECIPES`.

A recipe is a function (model config, weight quantizer, activation quantizer) -> `Recipe`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from qtx.foundation.errors import QtxError, lookup
from qtx.foundation.run_file import run_file
from qtx.quantization.recipe import Recipe
from qtx.quantization.recipes.matmul import matmul
from qtx.quantization.recipes.paper import paper_bert, paper_llama, paper_opt, paper_vit
from qtx.quantization.recipes.recorded import recorded_recipe
from qtx.quantization.recipes.strict import strict

RECIPES: dict[str, Callable[..., Recipe]] = {
    "paper_bert": paper_bert,
    "paper_opt": paper_opt,
    "paper_llama": paper_llama,
    "paper_vit": paper_vit,
    "strict": strict,
    "matmul": matmul,
}


def find_recipe(name: str) -> Callable[..., Recipe]:
    """Finds the recipe that `name` names: a registered one, "path/to/file.py:function", which is run, or
    "path/to/recipe.json", which is read.

    A config file can hold its own recipe: `config.quantization.recipe = f"{__file__}:careful"`.

    Raises:
      QtxError: for an unknown name, a file that cannot be read or run, or a file without the function.
    """
    if name.endswith(".json"):
        return recorded_recipe(Path(name))
    file, colon, function = name.rpartition(":")
    return _of_file(file, function) if colon else lookup(RECIPES, "recipe", name)


# One function object per file: a recipe is looked up for every scheme.
@functools.lru_cache
def _of_file(file: str, function: str) -> Callable[..., Recipe]:
    if not Path(file).is_file():
        raise QtxError(f"recipe {file}:{function}: there is no file {file}; expected path/to/file.py:function")
    try:
        found = run_file(file).get(function)
    except Exception as error:
        raise QtxError(f"recipe {file}:{function}: the file does not run: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise QtxError(
            f"recipe {file}:{function}: the file has no function {function!r}; expected one of (model config, weight "
            "quantizer, activation quantizer) that returns a qtx.quantization.Recipe"
        )
    return found


__all__ = ["RECIPES", "find_recipe"]
