"""Settings -> plain dict -> YAML: the resolved recipe, which builds an equal instance when it is read again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from medalign.config.reading import use_core_schema


def resolve(settings: Any) -> dict[str, Any]:
    """Return a settings instance as a plain dict with every key, and `type` in the sections that come from a table.

    Raises:
        TypeError: a value that YAML cannot hold (a class of settings that is not made of plain values).
    """
    fields = [field for field in dataclasses.fields(settings) if field.init]
    return {f.name: _plain(getattr(settings, f.name), f.metadata.get("table")) for f in fields}


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML text, keys in their order, lists of plain values on one line."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any, table: Mapping[str, str] | None) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {} if table is None else {"type": _type_name(type(value), table)}
        return {**named, **resolve(value)}
    if isinstance(value, tuple | list):
        return [_plain(item, table) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, table) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"settings hold plain values, not {type(value).__name__}.")


def _type_name(cls: type, table: Mapping[str, str]) -> str:
    """Return the table's name of a class, or module:Name. What is not imported cannot be the class: import nothing."""
    for name, target in table.items():
        module, _, attribute = target.partition(":")
        if getattr(sys.modules.get(module), attribute, None) is cls:
            return name
    return f"{cls.__module__}:{cls.__qualname__}"


@use_core_schema
class _Dumper(yaml.SafeDumper):
    """Writes what `reading` reads back as the same value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        has_rare_break = any(c in text for c in "\r\x85\u2028\u2029\ufeff")  # PyYAML's other styles do not keep these
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if has_rare_break else None)

    def represent_items(self, items: list) -> yaml.Node:
        return self.represent_sequence(
            "tag:yaml.org,2002:seq", items, flow_style=not any(isinstance(item, dict | list) for item in items)
        )


_Dumper.add_representer(list, _Dumper.represent_items)
_Dumper.add_representer(str, _Dumper.represent_text)
