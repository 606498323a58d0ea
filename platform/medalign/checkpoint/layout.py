"""Which rank writes which tensors into which file, and how many bytes that makes. Pure: nothing is allocated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medalign.errors import CheckpointError

HEADER_LIMIT = 4 << 20  # of a file: room for some 35,000 tensors, small enough to be read at once
ITEM = 4  # bytes of an fp32 number

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class FilePlan:
    """One safetensors file: its tensors in the order they are written, all of one rank.

    Attributes:
        name: of the file.
        rank: that writes it.
        shapes: the tensors' full shapes.
    """

    name: str
    rank: int
    shapes: Shapes

    @property
    def header(self) -> bytes:
        """The file's first bytes: the length of the JSON text, the text."""
        return header_of(self.shapes)

    @property
    def bytes(self) -> int:
        """The file's size."""
        return len(self.header) + sum(map(bytes_of, self.shapes.values()))


def bytes_of(shape: Iterable[int]) -> int:
    """Return the bytes of an fp32 tensor."""
    return ITEM * math.prod(shape)


def owners(shapes: Shapes, world: int) -> dict[str, int]:
    """Return the rank that writes each parameter: in the parameters' order, always the rank with the fewest bytes yet.

    So the ranks' shares differ by at most one parameter.
    """
    load, found = [0] * world, {}
    for name, shape in shapes.items():
        rank = load.index(min(load))
        found[name] = rank
        load[rank] += bytes_of(shape)
    return found


def plan_files(
    shapes: Shapes, *, keys: Iterable[str], buffers: Shapes, world: int, attempt: str = ""
) -> list[FilePlan]:
    """Return the files of a checkpoint: for each rank its parameters, and the optimizer's tensors of the same ones.

    Args:
        shapes: the parameters' full shapes, in the module's order.
        keys: the optimizer's tensors of each parameter, such as exp_avg.
        buffers: the running statistics' shapes; rank 0 writes them.
        world: ranks that write.
        attempt: part of each name, so that no file of an earlier attempt at the same step is ever written over.
    """
    keys, owner = list(keys), owners(shapes, world)
    plans = []
    for rank in range(world):
        own = {name: shape for name, shape in shapes.items() if owner[name] == rank}
        model = {**own, **(buffers if rank == 0 else {})}
        optimizer = {f"{name}/{key}": shape for name, shape in own.items() for key in keys}
        for kind, tensors in (("model", model), ("optimizer", optimizer)):
            name = "-".join(filter(None, (kind, f"{rank:05d}", attempt)))
            plans.append(FilePlan(name=f"{name}.safetensors", rank=rank, shapes=tensors))
    return plans


def header_of(shapes: Shapes) -> bytes:
    """Return a safetensors file's header: 8 bytes of little-endian length, the JSON text, padded to 8 bytes.

    Raises:
        CheckpointError: more tensors than one header may name.
    """
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + bytes_of(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise CheckpointError(f"{len(shapes)} tensors are too many for one file; train with more workers.")
    return len(text).to_bytes(8, "little") + text
