"""The machinery of recipes: read YAML with places, lay overrides over it, build strict dataclasses, write them back.

It knows no recipe. The way: `load` (a file and dotted overrides) -> `Document` -> `build(Recipe, document)` -> an
instance -> `resolve` -> `dump_yaml`. Whatever is wrong is one RecipeError of one line: place, key, cause, way out.
"""

from medalign.config.building import build
from medalign.config.document import Document, KeyPath, load, loads
from medalign.config.writing import dump_yaml, resolve

__all__ = ["Document", "KeyPath", "build", "dump_yaml", "load", "loads", "resolve"]
