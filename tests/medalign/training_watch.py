"""Watching a training from outside: what modules, solvers and engines saw and did, step by step."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medalign.training.contract import StepOutcome
from medalign.training.engine import Engine
from medalign.training.session import ProcessSession
from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult
from medalign_core.solvers.matching_problem import MatchingProblem


def tensors(engine: Engine) -> dict[str, np.ndarray]:
    """Return every full tensor of an engine: "name" for weights, "name/exp_avg" for the optimizer's."""
    found = {}
    for name in engine.names():
        for key in ("weight", *engine.optimizer_keys()):
            value = engine.gather(name, key)
            found[name if key == "weight" else f"{name}/{key}"] = value.float().cpu().numpy().copy()
    return found


@dataclass(frozen=True, kw_only=True)
class WatchedMatching(GraphMatching):
    """The solver, which also keeps what it was asked and what it answered."""

    def __call__(self, problem: MatchingProblem) -> MatchingResult:
        """Solve."""
        result = super().__call__(problem)
        ASKED.append((problem.vertex_affinity.copy(), problem.dense_edge_affinity().copy(), result.matching.copy()))
        return result


ASKED: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []


class Watch:
    """What one rank's module and engine did, by step or by (step, index)."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seen: dict[str, Any] = {
            "ids": {},
            "losses_by_batch": {},
            "matchings": {},
            "problems": {},
            "gradients": {},
            "digests": [],
        }
        solver = getattr(module, "_solver", None)
        if solver is not None:
            module._solver = WatchedMatching(**{f: getattr(solver, f) for f in solver.__dataclass_fields__})
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, module: torch.nn.Module, arguments: tuple) -> None:
        ASKED.clear()

    def _after(self, module: torch.nn.Module, arguments: tuple, output: tuple[Tensor, Mapping[str, Tensor]]) -> None:
        (batch,) = arguments
        key = (batch.key.step, batch.key.index)
        if not batch.weight:
            assert (batch.ids == -1).all()
            assert not batch.valid.any()
            return
        self.seen["ids"][key] = batch.ids.tolist()
        self.seen["losses_by_batch"][key] = float(output[0])
        if ASKED:
            self.seen["problems"][key] = ASKED[0][:2] if key[0] == 0 else None
            self.seen["matchings"][key] = ASKED[0][2]


class WatchedEngine(Engine):
    """The engine, which keeps the first step's gradient and a digest of its whole state around every step."""

    watch: Watch

    def step(self, learning_rate: float) -> StepOutcome:
        """Step."""
        if not self.watch.seen["gradients"]:
            self.watch.seen["gradients"] = {name: value.cpu().numpy().copy() for name, value in self.full_gradients()}
        outcome = super().step(learning_rate)
        digest = hashlib.sha256()
        for name, value in tensors(self).items():
            digest.update(name.encode() + value.tobytes())
        finite = all(np.isfinite(value).all() for value in tensors(self).values())
        self.watch.seen["digests"].append((digest.hexdigest(), finite, outcome.applied))
        return outcome


class Kept:
    """A tracker that keeps every line of figures."""

    def __init__(self) -> None:
        self.lines: dict[str, list[dict[str, float]]] = {"train": [], "validation": []}

    def log(self, step: int, values: Mapping[str, float], *, kind: str = "train") -> None:
        """Keep."""
        self.lines[kind].append({"step": step, **values})

    def flush(self) -> None:
        """Nothing to bring anywhere."""

    def close(self, *, failed: bool = False) -> None:
        """Nothing to close."""


class StopWatch(Kept):
    """A tracker that asks its own rank to stop at a step."""

    def __init__(self, session: ProcessSession, stop_at: int | None) -> None:
        super().__init__()
        self._session, self._stop_at = session, stop_at

    def log(self, step: int, values: Mapping[str, float], *, kind: str = "train") -> None:
        """Ask."""
        self._session.stop = step == self._stop_at
