"""Document -> settings: stdlib dataclasses built strictly, section by section, classes looked up in tables."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medalign.config.document import Document, dotted
from medalign.config.explaining import explain
from medalign.config.reading import KeyPath
from medalign.errors import RecipeError

T = TypeVar("T")


def build(cls: type[T], document: Document) -> T:
    """Build a settings dataclass from a document.

    A field's annotation may be a plain type (bool, int, float, str, Literal, and unions of them with None), a
    dataclass (a section below), or a tuple, list or dict of these. A field with
    `metadata={"table": {name: "module:Class"}}` is a section whose `type` key is a name of that table or any
    `package.module:Class`; the class is imported only then. In a tuple, list or dict each item is such a section.

    Values are checked strictly (no "yes" for true, no "3" for 3, no 1e5 for an integer), whether or not the class asks
    for it. Floats are finite, except that `metadata={"allow_inf": True}` admits infinity.

    Raises:
        RecipeError: an unknown or missing key, a wrong type or value, an unknown class, or what the class's own
            __post_init__ refuses; one line with the place, the key and the way out.
        TypeError: the settings class itself cannot be built from a recipe (a union of classes).
    """
    return _section(cls, document.values, (), document)


def _section(cls: type[T], node: Any, path: KeyPath, document: Document) -> T:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    if not isinstance(node, dict):
        raise document.error(path, f"must be a section with keys ({_listed(fields)}); give it keys.", value=node)
    for key in node:
        if key not in fields:
            raise document.error((*path, key), f"unknown key; {_near(key, fields, path)}", value=node[key])
    hints = _hints(cls, path, document)
    settings = {}
    for name, field in fields.items():
        below = (*path, name)
        if name in node:
            settings[name] = _convert(hints[name], node[name], below, _Slot(document, field))
        elif _is_required(field):
            settings[name] = _absent(hints[name], below, _Slot(document, field))
    try:
        return cls(**settings)
    except (ValueError, TypeError) as error:
        raise _own_error(error, node, path, document) from error


def _hints(cls: type, path: KeyPath, document: Document) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        problem = f"the annotations of {cls.__name__} cannot be read ({error}); import the name at its module's top."
        raise document.error(path, problem) from error


class _Slot(typing.NamedTuple):
    """Where a value goes: the document that errors name, and the field that holds it."""

    document: Document
    field: dataclasses.Field

    @property
    def table(self) -> Mapping[str, str] | None:
        return self.field.metadata.get("table")


def _convert(hint: Any, value: Any, path: KeyPath, slot: _Slot) -> Any:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and typing.get_origin(members[0]) in (tuple, list, dict):
        return _plain(hint, _convert(members[0], value, path, slot), path, slot)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in members:
            return None
        chosen = _member(members, value)
        if chosen is not None:
            return _convert(chosen, value, path, slot)
    if origin in (tuple, list):
        return origin(_items(hint, value, path, slot))
    if origin is dict and isinstance(value, dict):
        return {key: _convert(members[1], item, (*path, key), slot) for key, item in value.items()}
    if slot.table is not None:
        return None if value is None and slot.field.default is None else _typed_section(value, path, slot)
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast(type, hint), value, path, slot.document)
    return _plain(hint, value, path, slot)


def _member(members: tuple, value: Any) -> Any:
    """Return the member of a union that a value of this shape can only mean, or None where pydantic shall decide."""
    members = tuple(member for member in members if member is not type(None))
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if len(classes) > 1:
        raise TypeError(f"a union of classes ({classes}) is not a setting; use a table of types.")
    if len(members) == 1:
        return members[0]
    if isinstance(value, list):
        return next((m for m in members if typing.get_origin(m) in (tuple, list)), None)
    return classes[0] if classes and isinstance(value, dict) else None


def _items(hint: Any, value: Any, path: KeyPath, slot: _Slot) -> list:
    members = typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise slot.document.error(path, "must be a list; write it as [first, second].", value=value)
    is_open = typing.get_origin(hint) is list or members[-1] is Ellipsis
    if not is_open and len(value) != len(members):
        raise slot.document.error(path, f"must have {len(members)} items; it has {len(value)}.", value=value)
    kinds = [members[0]] * len(value) if is_open else members
    return [
        _convert(kind, item, (*path, index), slot) for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]


def _plain(hint: Any, value: Any, path: KeyPath, slot: _Slot) -> Any:
    try:
        checked = _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise slot.document.error(path, explain(error, value, field=slot.field), value=value) from None
    if type(checked) is not type(value) and not isinstance(checked, float | tuple):  # Literal[1] takes True and 1.0
        raise slot.document.error(path, f"must be {checked!r}, not its like; write {checked!r}.", value=value)
    for number in _floats(checked):
        if math.isnan(number) or (math.isinf(number) and not slot.field.metadata.get("allow_inf")):
            raise slot.document.error(path, "must be a finite number; give one.", value=value)
    return checked


@functools.cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(strict=True))


def _floats(value: Any) -> Iterable[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        yield from (number for item in value.values() for number in _floats(item))
    elif isinstance(value, list | tuple):
        yield from (number for item in value for number in _floats(item))


def _typed_section(node: Any, path: KeyPath, slot: _Slot) -> Any:
    table = slot.table or {}
    if not isinstance(node, dict):
        raise slot.document.error(path, f"must be a section with a `type` ({_listed(table)}); give it one.", value=node)
    if "type" not in node:
        way_out = f"add `type: NAME` ({_listed(table)}, or package.module:Class)"
        raise slot.document.error((*path, "type"), f"missing; {way_out}.")
    name = node["type"]
    fail = functools.partial(slot.document.error, (*path, "type"), value=name)
    if isinstance(name, str) and (target := table.get(name, name if ":" in name else None)):
        settings = {key: value for key, value in node.items() if key != "type"}
        return _section(_find_class(target, fail), settings, path, slot.document)
    raise fail(f"unknown type; {_near(str(name), table, ())} A class of yours is given as package.module:Class.")


def _find_class(target: str, fail: functools.partial[RecipeError]) -> type:
    module_name, _, name = target.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", target):
        raise fail("not the name of a class; write package.module:Class.")
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        cause = f"{module_name} cannot be imported ({error})"
        raise fail(f"{cause}; install its package, or put its folder on PYTHONPATH.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n, v in vars(found).items() if dataclasses.is_dataclass(v)]
            raise fail(f"{module_name} has no {name}; {_near(part, known, ())}")
        found = getattr(found, part)
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise fail(f"{name} is not a dataclass; name the class of the settings.")
    return found


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _absent(hint: Any, path: KeyPath, slot: _Slot) -> Any:
    """A section that is not written is an empty one, so that the error names the key that is missing in it."""
    if slot.table is not None and typing.get_origin(hint) not in (tuple, list, dict):
        return _typed_section({}, path, slot)
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast(type, hint), {}, path, slot.document)
    raise slot.document.error(path, f"missing; write it in the recipe or give the override {dotted(path)}=VALUE.")


def _own_error(error: Exception, node: dict, path: KeyPath, document: Document) -> RecipeError:
    """A class says what it refuses as `name must ...`: then the error is that key's, else its section's."""
    message = " ".join(str(error).split())
    first = re.match(r"\W?(\w+)", message)
    if first and first[1] in node:
        return document.error((*path, first[1]), message, value=node[first[1]])
    return document.error(path, message)


def _near(key: str, known: Iterable[str], path: KeyPath) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {dotted((*path, near[0]))}?" if near else f"known: {_listed(known)}."


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return (", ".join(names[:12]) + (", ..." if len(names) > 12 else "")) or "none"
