"""The place of a corpus: claimed before the first shard, cleared after a failure, complete once it has a manifest."""

from __future__ import annotations

from medalign import storage
from medalign.data import manifest
from medalign.data.manifest import Manifest
from medalign.errors import CorpusError

MARKER = ".preparing"


def claim(uri: str, fingerprint: str, *, overwrite: bool) -> Manifest | None:
    """Make `uri` ours to write, or return the manifest if this very corpus is already there.

    What a killed preparation left is cleared. Files that no preparation wrote are never touched.

    Raises:
        CorpusError: another corpus is there and `overwrite` is False, or files that are no corpus.
    """
    if storage.exists(storage.join(uri, manifest.FILE_NAME)):
        have = None if overwrite else manifest.read(uri)
        if have is not None and have.fingerprint == fingerprint:
            return have
        if not overwrite:
            raise CorpusError(
                f"{uri}: another corpus is here (other source or settings); choose another place, or overwrite=True."
            )
        if _is_complete(uri, fingerprint):
            return manifest.read(uri)
        # The mark first: if this process is killed between the two, the next one knows whose files these are.
        storage.write_bytes(storage.join(uri, MARKER), fingerprint.encode())
        storage.delete_file(storage.join(uri, manifest.FILE_NAME))
    if storage.exists(storage.join(uri, MARKER)):
        clear(uri)
    elif storage.list_files(uri):
        raise CorpusError(f"{uri}: holds files that are not a corpus; choose an empty place.")
    storage.write_bytes(storage.join(uri, MARKER), fingerprint.encode())
    return None


def clear(uri: str) -> None:
    """Delete the shards of an unfinished preparation, then its mark. A finished corpus is left alone."""
    if storage.exists(storage.join(uri, manifest.FILE_NAME)):
        return
    for path in storage.list_files(uri):
        file = path.rpartition("/")[2]
        if file.endswith(".part") or (file.startswith("part-") and file.endswith(".parquet")):
            storage.delete_file(path)
    storage.delete_file(storage.join(uri, MARKER))


def finish(uri: str, finished: Manifest) -> None:
    """Write the manifest, which makes the corpus exist, and take the mark away."""
    manifest.write(uri, finished)
    storage.delete_file(storage.join(uri, MARKER))


def _is_complete(uri: str, fingerprint: str) -> bool:
    try:
        return manifest.read(uri).fingerprint == fingerprint
    except CorpusError:
        return False
