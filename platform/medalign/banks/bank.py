"""The prompt bank: sentences per class with their origin, as one JSON file at a URI; reading and writing it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from medalign import storage
from medalign.errors import BankError, NotFoundError
from medalign.language_models import parse_object

VERSION = "medalign.bank/1"
READY = "ready:"  # ready:NAME is a bank of this package


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a bank's sentences come from.

    Attributes:
        author: who wrote them; for a model, its name at the endpoint.
        kind: "people" or "model".
        date: ISO date.
        prompt_sha256: of the instruction that a model was given; None for people.
        reviewer: who has checked them clinically; None for nobody.
        note: what a reader should know.
    """

    author: str
    kind: str
    date: str
    prompt_sha256: str | None = None
    reviewer: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Sentences about C classes. It may be wrong in its words: `checks.check` says how.

    Attributes:
        name: of the bank.
        template: holds one {}, for a class's display name: "a chest X-ray of {}.".
        classes: the sentences of each class, by the class's name in corpora.
        display_names: a class's name as it stands in a sentence, where that differs from its name in corpora.
        provenance: where the sentences come from.
        version: of the file's form.
    """

    name: str
    template: str
    classes: Mapping[str, tuple[str, ...]]
    display_names: Mapping[str, str] = field(default_factory=dict)
    provenance: Provenance
    version: str = VERSION

    def display(self, name: str) -> str:
        """Return a class's name as it stands in a sentence."""
        return self.display_names.get(name, name)

    def dumps(self) -> str:
        """Return the bank as JSON, the same bytes for the same bank."""
        raw = {**asdict(self), "classes": {name: list(texts) for name, texts in self.classes.items()}}
        order = ("version", "name", "template", "display_names", "classes", "provenance")
        return json.dumps({key: raw[key] for key in order}, indent=1, ensure_ascii=False) + "\n"


def normalise(name: str) -> str:
    """Return what two spellings of a class name share: case, _, -, / and blanks do not count."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.sub(r"[-_/]", " ", folded).split())


def ready_names() -> list[str]:
    """Return the names of the banks that come with the package."""
    names = (entry.name for entry in _ready_folder().iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read(uri: str) -> Bank:
    """Read a bank at a path, file://, s3:// or gs://, or a ready one as ready:NAME.

    Raises:
        BankError: nothing there, not JSON, a key twice, or not of a bank's form; one line with the key.
        StorageError: the place cannot be reached.
    """
    if uri.startswith(READY):
        name = uri.removeprefix(READY)
        if name not in ready_names():
            raise BankError(f"{uri}: no such bank; ready are {', '.join(ready_names())}.")
        return loads((_ready_folder() / f"{name}.json").read_text("utf-8"), place=uri)
    try:
        data = storage.read_bytes(uri)
    except NotFoundError:
        raise BankError(f"{uri}: no bank here; write one with `medalign bank generate`, or use ready:NAME.") from None
    try:
        return loads(data.decode("utf-8"), place=uri)
    except UnicodeDecodeError:
        raise BankError(f"{uri}: not UTF-8 text.") from None


def write(uri: str, bank: Bank) -> None:
    """Write a bank: complete or absent."""
    storage.write_bytes(uri, bank.dumps().encode())


def loads(text: str, *, place: str) -> Bank:
    """Return the bank of its JSON text.

    Args:
        text: the file's content.
        place: its name, for messages.

    Raises:
        BankError: not of a bank's form.
    """
    try:
        return _parse(parse_object(text))
    except ValueError as error:
        raise BankError(f"{place}: {error}.") from None


def _ready_folder() -> Traversable:
    return resources.files("medalign.banks") / "ready"


def _parse(raw: dict[str, Any]) -> Bank:
    version = raw.get("version")
    if version != VERSION:
        raise ValueError(f"version is {version!r}, this release reads {VERSION!r}")
    known = {"version": str, "name": str, "template": str, "classes": dict, "provenance": dict}
    _check_keys(raw, known, optional={"display_names": dict}, where="")
    for name, texts in raw["classes"].items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"classes[{name!r}] must be a list of sentences, got {_kind(texts)}")
    for name, text in raw.get("display_names", {}).items():
        if not isinstance(text, str):
            raise ValueError(f"display_names[{name!r}] must be a text, got {_kind(text)}")
    optional = {"prompt_sha256": (str, type(None)), "reviewer": (str, type(None)), "note": str}
    _check_keys(raw["provenance"], {"author": str, "kind": str, "date": str}, optional=optional, where="provenance.")
    classes = {name: tuple(texts) for name, texts in raw["classes"].items()}
    return Bank(**{**raw, "classes": classes, "provenance": Provenance(**raw["provenance"])})


def _check_keys(raw: dict[str, Any], known: dict[str, Any], *, optional: dict[str, Any], where: str) -> None:
    for key in known:
        if key not in raw:
            raise ValueError(f"{where}{key} is missing")
    for key, value in raw.items():
        kinds = {**known, **optional}.get(key)
        if kinds is None:
            raise ValueError(f"{where}{key} is an unknown key; known are {', '.join([*known, *optional])}")
        if not isinstance(value, kinds):
            wanted = {str: "a text", dict: "an object"}.get(kinds, "a text or null")
            raise ValueError(f"{where}{key} must be {wanted}, got {_kind(value)}")


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", type(None): "null"}
    return kinds.get(type(value), f"{value!r}"[:60])
