"""What the place of an encoder says of it: a run's resolved recipe, the size of the images it was made for."""

from __future__ import annotations

import json
from typing import Any

import yaml

from medalign import storage
from medalign.errors import RunError

RECIPE, PREPROCESSOR = "recipe.yaml", "preprocessor_config.json"
SECTIONS = ("run", "data", "model", "objective")


def read_recipe(run: str) -> dict[str, Any]:
    """Return a run's resolved recipe.

    Raises:
        RunError: no run there, or its recipe cannot be read.
    """
    where = storage.join(run, RECIPE)
    if not storage.exists(where):
        raise RunError(f"{run}: no run here ({RECIPE} is missing); give the URI that `medalign train` printed.")
    try:
        recipe = yaml.safe_load(storage.read_bytes(where))
    except yaml.YAMLError as error:
        raise RunError(f"{where}: not YAML ({' '.join(str(error).split())[:160]}).") from error
    if not isinstance(recipe, dict) or not all(isinstance(recipe.get(name), dict) for name in SECTIONS):
        raise RunError(f"{where}: not a resolved recipe; give the URI that `medalign train` printed.")
    return recipe


def image_size(source: str) -> int:
    """Return the height and width of the images that a run or an exported directory was made for.

    Raises:
        RunError: the place does not say.
    """
    if storage.exists(storage.join(source, RECIPE)):
        size = read_recipe(source)["data"].get("image_size")
    elif storage.exists(where := storage.join(source, PREPROCESSOR)):
        try:
            size = json.loads(storage.read_bytes(where))["crop_size"]["height"]
        except (ValueError, KeyError, TypeError):
            size = None
    else:
        size = None
    if not isinstance(size, int) or size < 1:
        raise RunError(f"{source}: neither a run nor a directory that says its image size; give the image size.")
    return size
