"""A shard opened for reading: no byte is parsed, and no row leaves, before its hash is that of the manifest."""

from __future__ import annotations

import hashlib
import io
import threading
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.data.manifest import Shard
from medalign.errors import NotFoundError

PIECE = 8 * 1024 * 1024


class ShardDamage(Exception):  # noqa: N818  the field's word; it never leaves this folder
    """What a shard holds is not what the manifest says. The message is the reason, without the shard's name."""


class ShardFile:
    """One shard. Each row group is read with one request for its whole range, checked, and then parsed.

    A shard of schema 1, which has no ranges, is read from end to end and checked once, when it is opened.

    Raises:
        ShardDamage: it is missing, cut short, or other bytes, or has other row groups than the manifest says.
        StorageError: the store does not answer or refuses.
    """

    def __init__(self, uri: str, shard: Shard) -> None:
        self._shard, self._lock = shard, threading.Lock()
        filesystem, path = storage.resolve(uri)
        try:
            self._stream = filesystem.open_input_file(path)
        except (FileNotFoundError, NotFoundError) as error:
            raise ShardDamage("it is missing") from error
        if self._stream.size() != shard.bytes:
            raise ShardDamage(f"it has {self._stream.size()} bytes, the manifest says {shard.bytes}")
        if shard.ranges:
            _, tail = self._check(len(shard.ranges) - 1)
            self._file = _parse(pa.BufferReader(tail), None)  # its footer; the rows are read group by group
        else:
            self._check_whole()
            self._file = _parse(self._stream, None)
        found = self._file.metadata
        if tuple(found.row_group(i).num_rows for i in range(found.num_row_groups)) != shard.row_groups:
            raise ShardDamage("its row groups are not those of the manifest")

    def read(self, group: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return one row group.

        Raises:
            ShardDamage: its bytes are not those of the manifest.
        """
        file = self._file
        if self._shard.ranges:
            file = _parse(_Window(self._shard.bytes, *self._check(group)), self._file.metadata)
        try:
            return file.read_row_group(group, columns=list(columns) if columns else None, use_threads=False)
        except pa.ArrowException as error:
            raise ShardDamage(f"it is not the Parquet that the manifest describes ({type(error).__name__})") from error

    def _check(self, number: int) -> tuple[int, pa.Buffer]:
        """Return (offset, bytes) of a range whose hash is right."""
        low, size, digest = self._shard.ranges[number]
        with self._lock:
            self._stream.seek(low)
            data = self._stream.read_buffer(size)
        if len(data) != size:
            raise ShardDamage(f"it was cut short: {len(data)} bytes came of {size}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise ShardDamage("its sha256 is not the manifest's")
        return low, data

    def _check_whole(self) -> None:
        digest = hashlib.sha256()
        while piece := self._stream.read(PIECE):
            digest.update(piece)
        if digest.hexdigest() != self._shard.sha256:
            raise ShardDamage("its sha256 is not the manifest's")


@lru_cache(maxsize=32)
def open_shard(uri: str, shard: Shard) -> ShardFile:
    """Return a shard's file, opened and checked once in this process.

    Raises:
        ShardDamage, StorageError: see `ShardFile`; a failure is not remembered.
    """
    return ShardFile(uri, shard)


def _parse(source: Any, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source, metadata=metadata)
    except pa.ArrowException as error:
        raise ShardDamage(f"it is not the Parquet that the manifest describes ({type(error).__name__})") from error


class _Window(io.RawIOBase):
    """A checked range of a file, at its place in it; nothing else can be read."""

    def __init__(self, size: int, low: int, data: pa.Buffer) -> None:
        super().__init__()
        self._size, self._low, self._data, self._at = size, low, memoryview(data), low

    def read(self, size: int = -1) -> Any:
        """Return the next bytes, without copying them."""
        first = self._at - self._low
        last = first + (self._size - self._at if size is None or size < 0 else size)
        if not 0 <= first <= last <= len(self._data):
            raise ShardDamage("its footer points outside a row group")
        self._at += last - first
        return self._data[first:last]

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
