"""Tensors with an optimizer's, as a source for checkpoints, without an engine; also for ranks that are threads."""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Meeting:
    """Where ranks that are threads exchange values."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._all_here = threading.Barrier(world, timeout=30)
        self._values: list = [None] * world

    def exchange(self, rank: int, value: object) -> list:
        """Return every rank's value."""
        self._values[rank] = value
        self._all_here.wait()
        found = list(self._values)
        self._all_here.wait()
        return found

    def run(self, work: Callable[[int], object]) -> list:
        """Call `work(rank)` in one thread per rank; return what each returned or raised."""
        results: list = [None] * self.world

        def one(rank: int) -> None:
            try:
                results[rank] = work(rank)
            except Exception as error:  # noqa: BLE001
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results


class PlainTensors:
    """Named weights, each with one optimizer tensor, and one buffer; drawn from a seed."""

    def __init__(
        self,
        seed: int,
        *,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        keys: tuple = ("exp_avg",),
        rank: int = 0,
        meeting: Meeting | None = None,
    ):
        self.rank, self.world, self._meeting = rank, meeting.world if meeting else 1, meeting
        draw = torch.Generator().manual_seed(seed)
        self._shapes = dict(shapes or {"encoder.a": (3, 4), "encoder.b": (4,), "head": (2, 2)})
        self.tensors = {
            name: {key: torch.randn(shape, generator=draw) for key in ("weight", *keys)}
            for name, shape in self._shapes.items()
        }
        self.others = {"encoder.norm.running_mean": torch.randn(4, generator=draw)}
        self.step = seed
        self._keys = list(keys)

    def names(self) -> list[str]:
        return list(self._shapes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def optimizer_keys(self) -> list[str]:
        return self._keys

    def optimizer_step(self) -> int:
        return self.step

    def planned_keys(self) -> list[str]:
        return self._keys

    def gather(self, name: str, key: str = "weight", *, owner: int | None = None) -> Tensor:
        return self.tensors[name][key]

    def scatter(self, name: str, key: str, value: Tensor) -> None:
        self.tensors[name][key] = value

    def share(self, value: Tensor | None, shape: tuple[int, ...], *, owner: int) -> Tensor:
        return self._meeting.exchange(self.rank, value)[owner] if self._meeting else value

    def barrier(self) -> None:
        self.any_rank(False)

    def any_rank(self, value: bool) -> bool:
        return any(self._meeting.exchange(self.rank, value)) if self._meeting else value

    def prepare_optimizer(self, keys: list[str], step: int) -> None:
        self._keys, self.step = list(keys), step

    def buffers(self) -> dict[str, Tensor]:
        return self.others

    def load_buffers(self, tensors: dict[str, Tensor]) -> None:
        self.others = tensors

    def same_as(self, other: "PlainTensors") -> bool:
        """Tell whether every tensor and the step are bit for bit the same."""
        pairs = [(v, other.tensors[n][k]) for n, held in self.tensors.items() for k, v in held.items()]
        pairs += [(v, other.others[n]) for n, v in self.others.items()]
        return self.step == other.step and all(torch.equal(a, b) for a, b in pairs)
