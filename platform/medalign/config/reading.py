"""YAML text -> plain values and line numbers, under YAML 1.2's core schema and without its dangerous parts.

`yes`, `no`, `on` and `off` are text, `1e-4` and `1E5` are floats. Refused: duplicate keys, anchors and aliases, tags,
several documents, keys that are not text, `${...}`, tabs as indentation, control characters, lone surrogates.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_CORE_SCHEMA = (  # YAML 1.2.2, section 10.3.2; the first that matches wins
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class Unreadable(Exception):
    """What cannot be read, and where: `line` counts from 1, `path` is the key it belongs to."""

    def __init__(self, line: int, problem: str, *, path: KeyPath = ()):
        super().__init__(problem)
        self.line, self.problem, self.path = line, problem, path


def use_core_schema(syntax: type) -> type:
    """Give a PyYAML loader or dumper the implicit types of YAML 1.2's core schema, and no others."""
    syntax.yaml_implicit_resolvers = {}  # type: ignore[attr-defined]
    for name, pattern, first in _CORE_SCHEMA:
        syntax.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), first)  # type: ignore[attr-defined]
    return syntax


def parse(text: str) -> tuple[Any, dict[KeyPath, int]]:
    """Read one YAML document.

    Returns:
        the plain value (None for an empty text), and the line, from 1, of every key and item in it; () is the whole.

    Raises:
        Unreadable: the text is not YAML, or uses a part of YAML that recipes do not have.
    """
    lines: dict[KeyPath, int] = {}
    try:
        node = _Loader(text).get_single_node()
        lines[()] = 1 if node is None else node.start_mark.line + 1
        return (None if node is None else _value(node, (), lines)), lines
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise Unreadable(line, f"character U+{code:04X} is not text; save the recipe as plain UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        raise _unmarked(error) from None
    except RecursionError:
        raise Unreadable(1, "nested too deeply for a recipe; flatten it.") from None


@use_core_schema
class _Loader(yaml.SafeLoader):
    """Composes nodes only: no constructor of PyYAML ever runs on a recipe."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise Unreadable(line, "anchors (&) and aliases (*) are not read; write the value out, or quote the text.")
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise Unreadable(line, f"the tag {tag} is not read; write a plain value, or quote the text.")
        return super().compose_node(parent, index)


def _unmarked(error: yaml.MarkedYAMLError) -> Unreadable:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        return Unreadable(line, "a tab where YAML wants spaces; replace tabs by spaces.")
    if "another document" in problem or "single document" in (error.context or ""):
        return Unreadable(line, "a second document (---) begins here; a recipe is one document.")
    return Unreadable(line, f"not YAML: {problem}; correct the line, or quote the text.")


def _value(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
        return [_value(item, (*path, index), lines) for index, item in enumerate(node.value)]
    return _scalar(node, path)


def _mapping(node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            shown = f"the key {key!r}" if isinstance(key_node, yaml.ScalarNode) else "a key made of several values"
            raise Unreadable(line, f"{shown} is not text; a key is a name (quote a number).", path=path)
        if key in values:
            first = lines[*path, key]
            raise Unreadable(line, f"given twice, first in line {first}; keep one of them.", path=(*path, key))
        lines[*path, key] = line
        values[key] = _value(value_node, (*path, key), lines)
    return values


def _scalar(node: yaml.ScalarNode, path: KeyPath) -> Any:
    text, kind, line = node.value, node.tag.rpartition(":")[2], node.start_mark.line + 1
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 100:
            raise Unreadable(line, f"an integer of {len(text)} digits; write a smaller number.", path=path)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if re.search(r"\$\{[^}]*\}", text):
        hint = "write the value, or let the shell put it into an override"
        raise Unreadable(line, f"references like {text[:60]} are not read; {hint}.", path=path)
    if re.search("[\ud800-\udfff]", text):
        raise Unreadable(line, "a lone surrogate is not text; correct the escape.", path=path)
    return text
