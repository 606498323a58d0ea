"""Safetensors files: the library reads ours, we read the library's, and no header makes us work or crash."""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from medalign import storage
from medalign.checkpoint.layout import HEADER_LIMIT
from medalign.checkpoint.tensor_file import FileRecord, hash_file, reading, writing
from medalign.errors import CheckpointError


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (5, 3, 2), "bias": (7,), "scale": (), "nothing": (0, 4), "größe": (1, 1)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def write(at: Path, values: dict[str, Tensor]) -> FileRecord:
    with writing(str(at), {name: tuple(value.shape) for name, value in values.items()}) as writer:
        for name, value in values.items():
            writer.add(name, value)
    assert writer.record.bytes == at.stat().st_size
    assert hash_file(str(at)) == (writer.record.bytes, writer.record.sha256)
    return writer.record


def file_with(at: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    at.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return at


def read_all(at: Path) -> dict[str, Tensor]:
    with reading(str(at)) as reader:
        return {name: reader.read(name) for name in reader.names()}


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", tensors())
    found = safetensors.torch.load_file(tmp_path / "ours.safetensors")
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in tensors().items())


def test_we_read_the_safetensors_library_s_files(tmp_path: Path) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    found = read_all(tmp_path / "theirs.safetensors")
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in tensors().items())


def test_half_precision_is_stored_as_the_same_number(tmp_path: Path) -> None:
    values = {"w": torch.randn(40, generator=torch.Generator().manual_seed(1)).bfloat16()}
    write(tmp_path / "f", values)
    found = read_all(tmp_path / "f")["w"]
    assert found.dtype == torch.float32
    assert torch.equal(found, values["w"].float())


def test_an_empty_file_of_tensors_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "f", {})
    assert read_all(tmp_path / "f") == {}
    assert safetensors.torch.load_file(tmp_path / "f") == {}


def test_a_file_that_was_not_finished_does_not_appear(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing(str(tmp_path / "f"), {"a": (2,), "b": (2,)}) as writer:
            writer.add("a", torch.zeros(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def entry(begin: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, Callable[[], object]] = {
    "not JSON": lambda: b"{nonsense",
    "not UTF-8": lambda: b"\xff\xfe{}",
    "a list": lambda: [1, 2],
    "an entry that is no object": lambda: {"a": 3},
    "no offsets": lambda: {"a": {"dtype": "F32", "shape": [2]}},
    "another dtype": lambda: {"a": entry(0, 8, [2], "F64")},
    "offsets that do not fit the shape": lambda: {"a": entry(0, 8, [3])},
    "negative offsets": lambda: {"a": entry(-8, 0, [2]), "b": entry(0, 8, [2])},
    "negative sizes": lambda: {"a": entry(0, 8, [-1, -2])},
    "overlapping tensors": lambda: {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])},
    "one place for two tensors": lambda: {"a": entry(0, 8, [2]), "b": entry(0, 8, [2])},
    "a hole": lambda: {"a": entry(4, 8, [1])},
    "more than the file holds": lambda: {"a": entry(0, 4 << 40, [1 << 40])},
    "less than the file holds": lambda: {"a": entry(0, 4, [1])},
    "a product that wraps to nothing": lambda: {"a": entry(0, 0, [1 << 62, 4]), "b": entry(0, 8, [2])},
    "sizes that are no integers": lambda: {"a": entry(0, 8, [2.0])},
    "sizes that are texts": lambda: {"a": entry(0, 8, ["2"])},
    "three offsets": lambda: {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}},
    "a nest of lists": lambda: b"[" * 200_000,
    "a nest within the header's limit": lambda: b"[" * HEADER_LIMIT,
    "a name given twice": lambda: (
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'
    ),
    "a key given twice": lambda: b'{"a": {"dtype": "F32", "shape": [1], "shape": [2], "data_offsets": [0, 8]}}',
    "millions of empty lists": lambda: b"[" + b"[]," * ((HEADER_LIMIT - 8) // 3) + b"[]]",
    "millions of empty objects": lambda: b"[" + b"{}," * ((HEADER_LIMIT - 8) // 3) + b"{}]",
    "millions of names": lambda: b"[" + b'"ab",' * ((HEADER_LIMIT - 8) // 5) + b'""]',
    "millions of tensors without a size": lambda: (
        b"{"
        + b",".join(b'"%06x":{"dtype":"F32","shape":[],"data_offsets":[0,0]}' % n for n in range(HEADER_LIMIT // 60))
        + b"}"
    ),
    "one huge name": lambda: b'{"' + b"a" * (HEADER_LIMIT - 100) + b'": 1}',
    "numbers of thousands of digits": lambda: (
        b'{"a": {"dtype": "F32", "data_offsets": [0, 8], "shape": [' + b",".join([b"9" * 4000] * 1000) + b"]}}"
    ),
    "thousands of dimensions": lambda: {"a": entry(0, 8, [2] + [1] * 5000)},
    "not a number": lambda: b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, Infinity]}}',
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_bad_header_is_refused_at_once_in_little_memory(tmp_path: Path, kind: str) -> None:
    at = file_with(tmp_path / "f", HEADERS[kind](), b"12345678")
    message, seconds, swell = in_child(at)
    assert message.startswith(f"CheckpointError: {at}: the header cannot be read")
    assert len(message) < 400 + len(str(at))
    assert seconds < 1
    assert swell < 50e6


@pytest.mark.parametrize("length", [HEADER_LIMIT + 1, 100 * 10**9, 2**63, 2**64 - 1])
def test_a_header_that_promises_to_be_huge_is_not_read(tmp_path: Path, length: int) -> None:
    at = file_with(tmp_path / "f", {}, length=length)
    if length == 100 * 10**9:
        os.truncate(at, 8 + length)  # as long as it says, though sparse
    message, seconds, swell = in_child(at)
    assert message == f"CheckpointError: {at}: a header of {length} bytes is not a checkpoint's."
    assert seconds < 1
    assert swell < 50e6


def in_child(at: Path) -> tuple[str, float, float]:
    """Read a file in a child process: (what it raised, processor seconds, bytes that its memory grew by at most)."""
    answer, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            message = "nothing"
            try:
                read_all(at)
            except BaseException as error:  # noqa: BLE001
                message = f"{type(error).__name__}: {error}"
            swell = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(end, json.dumps([message, time.process_time() - since, swell * 1024]).encode())
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(answer, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    message, seconds, swell = json.loads(found)
    return message, seconds, swell


@pytest.mark.parametrize("kept", [0, 5, 8, 30, -4])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    write(tmp_path / "f", {"a": torch.ones(30)})
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="/f: the header cannot be read"):
        read_all(tmp_path / "f")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    from medalign.errors import StorageError

    with pytest.raises(StorageError, match="gone.safetensors: not found"):
        read_all(tmp_path / "gone.safetensors")
    assert not storage.exists(str(tmp_path / "gone.safetensors"))


def test_a_file_is_checked_against_its_record(tmp_path: Path) -> None:
    record = write(tmp_path / "f", tensors())
    with reading(str(tmp_path / "f"), record) as reader:
        assert all(torch.equal(reader.read(name), value) for name, value in tensors().items())
    other = write(tmp_path / "g", {name: value + 1 for name, value in tensors().items()})
    with (
        reading(str(tmp_path / "f"), other) as reader,
        pytest.raises(CheckpointError, match="f: bias is damaged, its bytes are not those that were saved"),
    ):
        reader.read("bias")
