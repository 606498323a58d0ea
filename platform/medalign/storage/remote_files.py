"""A pyarrow filesystem over an object store in which every request has a limit, is tried again and names its URI.

Whatever reads through pyarrow.fs gets this: Parquet readers, Ray. Reads go to pyarrow's own S3FileSystem, range by
range; each range is a request of its own, so one that fails is asked for again and nothing else is.
"""

from __future__ import annotations

import functools
import io
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from medalign.storage import s3_objects
from medalign.storage.failures import ShortReadError
from medalign.storage.retries import attempt
from medalign.storage.s3_access import access

T = TypeVar("T")
PIECE = 8 * 1024 * 1024  # a longer range is read in pieces: what a broken connection costs


class RemoteFiles(fs.FileSystemHandler):
    """The filesystem of one scheme, s3 or gs. Pickles as its scheme alone."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def call(self, operation: Callable[[fs.FileSystem], T], path: str, *, is_there: bool = False) -> T:
        """Make one request, patiently.

        Raises:
            StorageError: it fails.
        """
        uri = f"{self.scheme}://{path}"
        if self.scheme != "s3":
            return attempt(lambda: operation(fs.GcsFileSystem()), uri=uri, is_there=is_there)
        found = access()
        generation = found.generation
        return attempt(
            lambda: operation(found.filesystem()), uri=uri, renew=lambda: found.renew(generation), is_there=is_there
        )

    def get_type_name(self) -> str:
        """Return a name for messages."""
        return f"medalign+{self.scheme}"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return what is there under each path."""
        return [self.call(operator.methodcaller("get_file_info", path), path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return what is there under a folder."""
        return self.call(lambda store: store.get_file_info(selector), selector.base_dir)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file for reading at any place."""
        return pa.PythonFile(PatientFile(self, path), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Open a file for writing; it exists when it is closed."""
        if self.scheme == "s3":
            return pa.PythonFile(s3_objects.Upload(f"s3://{path}"), mode="w")
        return fs.GcsFileSystem().open_output_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Refuse: objects cannot grow."""
        raise OSError(f"{self.scheme}://{path}: an object cannot be appended to.")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: an object store has no folders, and no bucket is made unasked."""

    def delete_dir(self, path: str) -> None:
        """Delete everything under a path."""
        self.call(lambda store: store.delete_dir(path), path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delete everything under a path."""
        self.call(lambda store: store.delete_dir_contents(path, missing_dir_ok=missing_dir_ok), path)

    def delete_root_dir_contents(self) -> None:
        """Refuse: that would be every bucket."""
        raise OSError("every bucket of a store is not deleted at once.")

    def delete_file(self, path: str) -> None:
        """Delete one file."""
        self.call(lambda store: store.delete_file(path), path)

    def move(self, src: str, dest: str) -> None:
        """Copy a file, then delete it."""
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file within the store."""
        self.call(lambda store: store.copy_file(src, dest), src)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFiles) and other.scheme == self.scheme

    def __hash__(self) -> int:
        return hash(self.scheme)


class PatientFile(io.RawIOBase):
    """An object, read range by range; each range is tried again until it is whole."""

    def __init__(self, files: RemoteFiles, path: str) -> None:
        super().__init__()
        self._files, self._path, self._at = files, path, 0
        self._opened: tuple[fs.FileSystem, Any] | None = None
        self._size: int = files.call(lambda store: self._open(store).size(), path, is_there=True)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; fewer only at the end."""
        left = max(self._size - self._at, 0)
        size = left if size is None or size < 0 else min(size, left)
        pieces = []
        for start in range(self._at, self._at + size, PIECE):
            length = min(PIECE, self._at + size - start)
            piece = functools.partial(self._range, start=start, length=length)
            pieces.append(self._files.call(piece, self._path))
        self._at += size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def _open(self, store: fs.FileSystem) -> Any:
        """Return pyarrow's file; a new one where the credentials were renewed, which gives another store."""
        opened = self._opened
        if opened is None or opened[0] is not store:
            opened = self._opened = (store, store.open_input_file(self._path))
        return opened[1]

    def _range(self, store: fs.FileSystem, start: int, length: int) -> bytes:
        data = self._open(store).read_at(length, start)
        if len(data) != length:
            raise ShortReadError(f"{len(data)} bytes came of {length}")
        return data
