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
        return self.call(lambda store: store.get_file_info(selector), selector.base_dir, is_there=True)

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
        self._idle: tuple[fs.FileSystem, pa.NativeFile] | None = None
        self._size: int = files.call(self._open_for_size, path, is_there=True)

    def read(self, size: int = -1) -> bytearray:  # type: ignore[override] # as good as bytes, and not copied once more
        """Return the next bytes; fewer only at the end."""
        left = max(self._size - self._at, 0)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        view = memoryview(data)
        for start in range(0, len(data), PIECE):
            piece = view[start : start + PIECE]
            self._files.call(functools.partial(self._fill, piece=piece, at=self._at + start), self._path, is_there=True)
        self._at += len(data)
        return data

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

    def _open_for_size(self, store: fs.FileSystem) -> int:
        opened = store.open_input_file(self._path)
        self._idle = (store, opened)
        return opened.size()

    def _fill(self, store: fs.FileSystem, *, piece: memoryview, at: int) -> None:
        """Fill a piece; a body that is shorter than asked for is an error.

        pyarrow does not tell how long a body was, and leaves the rest of the buffer as it is. So the last byte is
        looked at: where it has not changed, either the body was short or that byte happens to be the same, and a
        second read over another byte tells which.
        """
        own = bytearray(len(piece))  # a try that was given up may still write into its buffer
        for mark in (165, 90):  # bytes that shards seldom end with: the second read is a whole one
            own[-1] = mark
            self._read_into(store, own, at)
            if own[-1] != mark:
                piece[:] = own
                return
        raise ShortReadError("the body was shorter than asked for")

    def _read_into(self, store: fs.FileSystem, buffer: bytearray, at: int) -> None:
        # pyarrow's file belongs to this try until it succeeds: one that was given up may still move its position
        idle, self._idle = self._idle, None
        opened = idle[1] if idle and idle[0] is store else store.open_input_file(self._path)
        opened.seek(at)
        count = opened.readinto(buffer)
        if count != len(buffer):
            raise ShortReadError(f"{count} bytes came of {len(buffer)}")
        self._idle = (store, opened)
