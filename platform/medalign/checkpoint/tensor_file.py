"""Safetensors files, one tensor at a time: a writer that never holds more than one, a reader that trusts nothing.

The format: 8 bytes of little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medalign import storage
from medalign.checkpoint.layout import HEADER_LIMIT, Shapes, bytes_of, header_of
from medalign.errors import CheckpointError

CHUNK = 8 << 20
DIMENSIONS = 16
LARGEST = 1 << 62


@dataclass(kw_only=True)
class FileRecord:
    """What a manifest says of a file: its size, and the sha256 of the whole, of its header and of each tensor."""

    bytes: int = 0
    sha256: str = ""
    header: str = ""
    tensors: dict[str, str] = field(default_factory=dict)


class TensorWriter:
    """Writes fp32 tensors of known shapes in a known order; `record` says what was written."""

    def __init__(self, stream: Any, shapes: Shapes) -> None:
        self._stream, self._shapes, self._due = stream, shapes, iter(shapes)
        self._digest, self.record = hashlib.sha256(), FileRecord()
        header = header_of(shapes)
        self.record.header = hashlib.sha256(header).hexdigest()
        self._write(header)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor."""
        assert name == next(self._due), "tensors are written in the order of their shapes"
        assert tuple(tensor.shape) == tuple(self._shapes[name]), f"{name} has another shape than announced"
        view = _memory(tensor.detach().to("cpu", torch.float32).contiguous())
        digest = hashlib.sha256()
        for at in range(0, len(view), CHUNK):
            digest.update(view[at : at + CHUNK])
            self._write(view[at : at + CHUNK])
        self.record.tensors[name] = digest.hexdigest()

    def close(self) -> None:
        """Check that nothing is missing."""
        assert next(self._due, None) is None, "a tensor was announced and not written"
        self.record.sha256 = self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.record.bytes += len(data)
        self._stream.write(data)


@contextlib.contextmanager
def writing(uri: str, shapes: Shapes) -> Iterator[TensorWriter]:
    """Write a safetensors file; it appears only when all its tensors are in it."""
    with storage.open_output(uri) as stream:
        writer = TensorWriter(stream, shapes)
        yield writer
        writer.close()


class TensorReader:
    """Reads single tensors of a safetensors file.

    Args:
        stream: the file.
        uri: its name in errors.
        record: what the manifest says of it; every byte that is read is checked against it. None checks only the form.

    Raises:
        CheckpointError: a header that is too long, not JSON, names a tensor twice, whose offsets do not fit its
            shapes or the file, or another header than the manifest's.
    """

    def __init__(self, stream: Any, uri: str, record: FileRecord | None = None) -> None:
        self._stream, self._uri, self._record = stream, uri, record
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if length > HEADER_LIMIT:
            raise CheckpointError(f"{uri}: a header of {length} bytes is not a checkpoint's.")
        if record and size != record.bytes:
            raise CheckpointError(f"{uri}: has {size} bytes, the manifest says {record.bytes}.")
        self._start = 8 + length
        text = stream.read(length)
        if record and hashlib.sha256(prefix + text).hexdigest() != record.header:
            raise CheckpointError(f"{uri}: the header is not the one that was saved.")
        try:
            self._entries = _entries(text)
            _check_layout(self._entries.values(), size - self._start)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{uri}: the header cannot be read ({str(error)[:200]}).") from error

    def names(self) -> list[str]:
        """Return the tensors' names."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return one tensor's shape."""
        return self._entries[name][0]

    def read(self, name: str) -> Tensor:
        """Return one tensor, fp32.

        Raises:
            CheckpointError: its bytes are missing, or are not those that were saved.
        """
        shape, begin, _ = self._entries[name]
        tensor = torch.empty(shape, dtype=torch.float32)
        view, digest = _memory(tensor), hashlib.sha256()
        self._stream.seek(self._start + begin)
        for at in range(0, len(view), CHUNK):
            part = view[at : at + CHUNK]
            if not _fill(part, self._stream):
                raise CheckpointError(f"{self._uri}: ends before {name} does.")
            digest.update(part)
        if self._record and self._record.tensors.get(name) != digest.hexdigest():
            raise CheckpointError(
                f"{self._uri}: {name} is damaged, its bytes are not those that were saved; delete the checkpoint's"
                " folder to go on from an older one."
            )
        return tensor


@contextlib.contextmanager
def reading(uri: str, record: FileRecord | None = None) -> Iterator[TensorReader]:
    """Open a safetensors file for reading single tensors."""
    with storage.open_input(uri) as stream:
        yield TensorReader(stream, uri, record)


def hash_file(uri: str) -> tuple[int, str]:
    """Return a file's (bytes, sha256), read in chunks."""
    digest, size = hashlib.sha256(), 0
    with storage.open_input(uri) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def _memory(tensor: Tensor) -> memoryview:
    """Return a contiguous CPU tensor's bytes, without a copy."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _fill(part: memoryview, stream: Any) -> bool:
    """Read a piece into its place; tell whether there was enough. A stream may give less than it is asked for."""
    done = 0
    while done < len(part):
        count = stream.readinto(part[done:])
        if not count:
            return False
        done += count
    return True


def _entries(text: bytes) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Read a header that may be anything: (shape, begin, end) of each tensor."""
    # an entry takes over 50 bytes: text with more marks than that allows would swell to many times its size
    if text.count(b"[") + text.count(b"{") > len(text) // 16 + 8 or text.count(b",") > len(text) // 6 + 64:
        raise ValueError("no list of tensors")
    header = json.loads(text, object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    return {name: _entry(entry) for name, entry in header.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that is given twice")
    return found


def _entry(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int]:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    whole = all(type(number) is int and 0 <= number < LARGEST for number in (*shape, begin, end))
    # Python's own integers: a product of sizes must not wrap around to one that fits
    if entry["dtype"] != "F32" or not whole or len(shape) > DIMENSIONS or end - begin != bytes_of(shape):
        raise ValueError("an entry whose dtype, shape and offsets do not fit")
    return shape, begin, end


def _check_layout(entries: Iterable[tuple[tuple[int, ...], int, int]], size: int) -> None:
    """Check that the tensors lie end to end and fill the `size` bytes after the header: no hole, no overlap."""
    at = 0
    for begin, end in sorted((begin, end) for _, begin, end in entries):
        if begin != at:
            raise ValueError("tensors that overlap, or leave a hole")
        at = end
    if at != size:
        raise ValueError(f"tensors of {at} bytes in {size} bytes of data")
