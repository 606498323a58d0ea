"""Safetensors files, one tensor at a time: a writer that never holds more than one, a reader that seeks.

The format: 8 bytes of little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medalign import storage
from medalign.errors import CheckpointError

HEADER_LIMIT = 64 << 20


class TensorWriter:
    """Writes fp32 tensors of known shapes in a known order; keeps the file's size and sha256."""

    def __init__(self, stream: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._stream, self._shapes, self._due = stream, shapes, iter(shapes)
        self._digest, self.bytes = hashlib.sha256(), 0
        header, offset = {}, 0
        for name, shape in shapes.items():
            size = 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._write(len(text).to_bytes(8, "little") + text)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor."""
        assert name == next(self._due), "tensors are written in the order of their shapes"
        assert tuple(tensor.shape) == tuple(self._shapes[name]), f"{name} has another shape than announced"
        self._write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())

    def close(self) -> None:
        """Check that nothing is missing."""
        assert next(self._due, None) is None, "a tensor was announced and not written"

    @property
    def sha256(self) -> str:
        """The hash of all bytes written so far."""
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self.bytes += len(data)
        self._stream.write(data)


@contextlib.contextmanager
def writing(uri: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[TensorWriter]:
    """Write a safetensors file; it appears only when all its tensors are in it."""
    with storage.open_output(uri) as stream:
        writer = TensorWriter(stream, shapes)
        yield writer
        writer.close()


class TensorReader:
    """Reads single tensors of a safetensors file.

    Raises:
        CheckpointError: a header that is too long, not JSON, or whose offsets do not fit its shapes.
    """

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream, self._uri = stream, uri
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if length > HEADER_LIMIT:
            raise CheckpointError(f"{uri}: a header of {length} bytes is not a checkpoint's.")
        self._start = 8 + length
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            self._entries = {name: _entry(entry) for name, entry in header.items()}
            _check_layout(self._entries.values(), size - self._start)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{uri}: the header cannot be read ({error}).") from error

    def names(self) -> list[str]:
        """Return the tensors' names."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return one tensor's shape."""
        return self._entries[name][0]

    def read(self, name: str) -> Tensor:
        """Return one tensor, fp32."""
        shape, begin, end = self._entries[name]
        self._stream.seek(self._start + begin)
        data = self._stream.read(end - begin)
        if len(data) != end - begin:
            raise CheckpointError(f"{self._uri}: ends before {name} does.")
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").copy()).reshape(shape)


def _entry(entry: dict[str, Any]) -> tuple[tuple[int, ...], int, int]:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    # Python's own integers: a product of sizes must not wrap around to one that fits
    if entry["dtype"] != "F32" or not whole or end - begin != 4 * math.prod(shape):
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


@contextlib.contextmanager
def reading(uri: str) -> Iterator[TensorReader]:
    """Open a safetensors file for reading single tensors."""
    with storage.open_input(uri) as stream:
        yield TensorReader(stream, uri)
