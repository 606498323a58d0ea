"""A recipe's document: plain values, the place each came from, and the dotted overrides laid over them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medalign.config.reading import KeyPath, Unreadable, parse
from medalign.errors import RecipeError

MAX_BYTES = 1 << 20
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A recipe as written.

    Attributes:
        source: the file's name as the user gave it.
        values: plain values: dicts, lists, text, numbers, booleans, None.
        places: where each key was written: `FILE:LINE` or `override key=VALUE`.
        notes: what an override removed without being asked key by key; for the user to see.
    """

    source: str
    values: dict[str, Any]
    places: dict[KeyPath, str]
    notes: tuple[str, ...] = ()

    def place(self, path: KeyPath) -> str:
        """Return where a key, or the nearest section above it, was written."""
        above = (path[:n] for n in range(len(path), -1, -1))
        return next((self.places[p] for p in above if p in self.places), self.source)

    def without(self, *sections: str) -> Document:
        """Return the document without some of its sections, which another part reads."""
        return replace(self, values={key: value for key, value in self.values.items() if key not in sections})

    def only(self, *sections: str) -> Document:
        """Return the document with these sections alone, those of them that are there."""
        return replace(self, values={key: value for key, value in self.values.items() if key in sections})

    def error(self, path: KeyPath, problem: str, *, value: Any = _ABSENT) -> RecipeError:
        """Return the one-line error of a key: `FILE:LINE: key.path = VALUE: problem`.

        Args:
            path: the key; () for the whole recipe.
            problem: what is wrong, a semicolon, the way out.
            value: what was given there; left out where nothing was.
        """
        return _error(self.place(path), path, problem, value=value)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a recipe from a local path or a URI, and lay overrides over it.

    Args:
        path: a YAML file of at most 1 MiB.
        overrides: `key.path=VALUE` each, VALUE as YAML. A later one wins. `section={...}` replaces the whole section.
            `section.type=OTHER` starts the section anew: what the file said about the former type is left out, and
            `Document.notes` says so.

    Raises:
        RecipeError: the file is missing, too large, not UTF-8, not YAML, or an override does not fit it.
        StorageError: a URI that cannot be reached.
    """
    raw = _read(str(path))
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than 1 MiB; a recipe is a short YAML file.")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise RecipeError(f"{path}:1: begins with a byte-order mark; save it as UTF-8 without one.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text; a recipe is a YAML file saved as UTF-8.") from None
    return loads(text, source=str(path), overrides=overrides)


def loads(text: str, *, source: str = "recipe", overrides: Sequence[str] = ()) -> Document:
    """Read a recipe from text; see `load`.

    Raises:
        RecipeError: not YAML, empty, not a mapping, or an override does not fit it.
    """
    try:
        values, lines = parse(text)
    except Unreadable as error:
        raise _error(f"{source}:{error.line}", error.path, error.problem) from None
    if values is None:
        raise RecipeError(f"{source}:1: empty; a recipe has keys, for example `run:` and `data:`.")
    if not isinstance(values, dict):
        raise RecipeError(f"{source}:1: not a mapping of keys; a recipe has lines like `key: value`.")
    document = Document(source=source, values=values, places={p: f"{source}:{n}" for p, n in lines.items()})
    for override in overrides:
        document = _override(document, override)
    return document


def dotted(path: KeyPath) -> str:
    """Write a key's path as the user writes it: data.views[0].size."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in path)
    return "".join(parts).removeprefix(".")


def _read(path: str) -> bytes:
    if "://" in path:
        from medalign import storage

        with storage.open_input(path) as stream:
            return stream.read(MAX_BYTES + 1)
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; give the path of a YAML file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        cause = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{_one_line(path)}: cannot be read ({cause}); give the path of a YAML file.") from None


def _error(place: str, path: KeyPath, problem: str, *, value: Any = _ABSENT) -> RecipeError:
    key = dotted(path)
    shown = "" if value is _ABSENT else f" = {_show(value)}"
    named = not key or place.startswith(f"override {key}=")  # the place says it already
    return RecipeError(_one_line(f"{place}: {problem}" if named else f"{place}: {key}{shown}: {problem}"))


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _override(document: Document, override: str) -> Document:
    """Return the document with one override laid over it."""
    path, value = _split(override)
    place = f"override {override if len(override) <= 120 else override[:117] + '...'}"
    values, places, notes = _copy(document.values), dict(document.places), document.notes
    section = values
    for depth, key in enumerate(path[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
            places[path[:depth]] = place
        section = section[key]
        if not isinstance(section, dict):
            problem = f"{dotted(path[:depth])} is {_kind(section)} ({_show(section)}) and has no keys below it"
            raise _error(place, path, f"{problem}; override {dotted(path[:depth])} itself.")
    last = path[-1]
    if isinstance(section.get(last), dict) and not isinstance(value, dict) and value is not None:
        keys = ", ".join(f"{dotted(path)}.{key}" for key in list(section[last])[:6]) or "none"
        raise _error(place, path, f"{dotted(path)} is a section; override one of its keys ({keys}), or give {{...}}.")
    if last == "type" and section.get(last) not in (None, value):
        notes = (*notes, *_start_anew(section, places, path[:-1], place=place))
    for old in [p for p in places if p[: len(path)] == path]:
        del places[old]
    section[last] = value
    places.update({p: place for p in (path, *_paths(value, path))})
    return Document(source=document.source, values=values, places=places, notes=notes)


def _split(override: str) -> tuple[tuple[str, ...], Any]:
    key, equals, text = override.partition("=")
    place = f"override {override[:120]}"
    if not equals:
        raise RecipeError(_one_line(f'{place}: no "="; write key.path=VALUE.'))
    path = tuple(part.strip() for part in key.split("."))
    if not all(path):
        raise RecipeError(_one_line(f"{place}: an empty part in the key {key!r}; write key.path=VALUE."))
    try:
        return path, parse(text)[0]
    except Unreadable as error:
        raise RecipeError(_one_line(f"{place}: {error.problem}")) from None


def _start_anew(section: dict, places: dict[KeyPath, str], path: KeyPath, *, place: str) -> list[str]:
    """Remove what the file (not an earlier override) said about the section's former type; tell which keys went."""
    gone = [k for k in section if k != "type" and not places.get((*path, k), "").startswith("override ")]
    for key in gone:
        del section[key]
    left = ", ".join(dotted((*path, key)) for key in gone)
    return [f"{place}: another type, so the recipe's {left} went."] if gone else []


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a single value"
