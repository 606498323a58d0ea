"""Records: what chat and VQA sets are published as, a JSON list or a line of JSON each, with pictures in a folder."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from medalign import storage
from medalign.errors import CorpusError

Record = dict[str, Any]


def read(source: str) -> list[Record]:
    """Return the records of a JSON or JSONL file, in order.

    Raises:
        CorpusError: not found, a pickle, not JSON, or not a list of objects.
        StorageError: the file cannot be read.
    """
    if source.lower().endswith((".pkl", ".pickle")):
        raise CorpusError(
            f"{source}: pickles are not read, they can run any code; save the same records as JSON, in a Python that"
            " you trust the file to."
        )
    if not storage.exists(source):
        raise CorpusError(f"{source}: not found; give the path of the set's JSON file.")
    try:
        text = storage.read_bytes(source).decode("utf-8-sig")
        lines = source.lower().endswith((".jsonl", ".ndjson"))
        found = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise CorpusError(f"{source}: not JSON ({type(error).__name__}).") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CorpusError(f"{source}: not a list of objects.")
    return found


def first_of(source: str, names: tuple[str, ...]) -> str:
    """Return the first of these files of a folder that is there, "" if none is."""
    places = (storage.join(source, name) for name in names)
    return next((place for place in places if storage.exists(place)), "")


class Pictures:
    """The pictures of a set, below one folder."""

    def __init__(self, folder: str) -> None:
        """List the folder once; a picture that is not there is found missing when it is read, and counted."""
        self._folder = folder
        self._sizes = storage.list_sizes(folder)

    def place(self, name: object, *, record: int) -> tuple[str, int]:
        """Return (URI, bytes) of a picture; ("", 0) where the record names none.

        Raises:
            CorpusError: the name leads out of the folder.
        """
        tail = str(name).strip() if isinstance(name, str | int) else ""
        if not tail:
            return "", 0
        if tail.startswith("/") or "://" in tail or ".." in PurePosixPath(tail).parts:
            raise CorpusError(f"record {record}: pictures are named relative to their folder, without '..'.")
        path = storage.join(self._folder, tail)
        return path, self._sizes.get(path, 0)


def folder_of(source: str, name: str) -> str:
    """Return a folder that lies beside a file."""
    return storage.join(source.rpartition("/")[0] or ".", name)
