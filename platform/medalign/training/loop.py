"""The loop: micro-batches through the engine, step by step. Imports neither Ray nor DeepSpeed."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from medalign.checkpoint import Saver, TrainState
from medalign.errors import MedAlignError, NonFiniteError, OrderError, PeerError, PlanError, WorkerError
from medalign.tracking import Trackers
from medalign.training.averages import Averages
from medalign.training.clock import Clock
from medalign.training.contract import Reason, Session, TrainingEngine
from medalign.training.first_step import FirstStep
from medalign.training.part_norms import PartNorms
from medalign.training.settings import Train
from medalign_core.ops.draws import draw_seed

ABANDON_S = 5.0  # that a checkpoint on its way has left when an error ends the run
TORN = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "ProcessGroup")


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """What the loop does, resolved.

    Attributes:
        run: the run's URI.
        settings: the recipe's train section.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: of the corpus.
        log_every: steps that one line of figures averages.
        learning_rate: the rate of a step, counted from 0.
        recipe: the resolved recipe, kept in each checkpoint.
        inert_accuracy: a matching accuracy above it at the first step is warned of; None where nothing is aligned.
    """

    run: str
    settings: Train
    total_steps: int
    steps_per_epoch: int
    log_every: int
    learning_rate: Callable[[int], float]
    recipe: Mapping[str, Any]
    inert_accuracy: float | None = None

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step."""
        return self.settings.global_batch // self.settings.micro_batch


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a loop ended: its last state, if the planned steps are done or why not, and the last figures by kind."""

    state: TrainState
    finished: bool
    reason: Reason | None = None
    last: dict[str, dict[str, float]] = field(default_factory=dict)


class Loop:
    """Trains from a state to the end of the plan, or until the session asks it to stop."""

    def __init__(self, engine: TrainingEngine, session: Session, plan: LoopPlan, *, trackers: Trackers) -> None:
        self._engine, self._session, self._plan, self._trackers = engine, session, plan, trackers
        self._averages = Averages(engine.device)
        self._first = FirstStep(engine.device, plan.inert_accuracy)
        self._last: dict[str, dict[str, float]] = {}
        self._rates: dict[str, float] = {}
        self._saved_step = -1
        self._reason: Reason | None = None
        self._clock = Clock()
        settings = plan.settings
        self._norms = PartNorms(engine.module, engine.device, settings.part_norms_every)
        self._saver = Saver(plan.run, engine, keep=settings.keep_last, deadline=settings.upload_deadline)

    def run(self, batches: Iterable[Any], state: TrainState, validation: list[Any]) -> LoopResult:
        """Train. `batches` are this rank's micro-batches from `state.step` on, padding included.

        Raises:
            OrderError: the batches end before the plan does.
            NonFiniteError: a non-finite loss or gradient under the policy `stop`.
            DiskFullError: no room for the run's checkpoints, seen before the first step where it can be.
            CheckpointError: a checkpoint did not reach a remote run in time.
            WorkerError: another exception, on one of several ranks; the message names rank and step.
        """
        self._saver.check_room(self._saves_left(state.step))
        try:
            state = self._train(iter(batches), state, validation)
        except BaseException:
            self._saver.abandon(ABANDON_S)
            raise
        self._saver.drain()
        finished = state.step == self._plan.total_steps
        return LoopResult(state=state, finished=finished, reason=self._reason, last=self._last)

    def _train(self, arriving: Iterator[Any], state: TrainState, validation: list[Any]) -> TrainState:
        settings, total = self._plan.settings, self._plan.total_steps
        self._saved_step = state.step
        self._averages.load(state.averages, is_first=self._session.rank == 0)
        state = replace(state, averages={})
        while state.step < total and not self._ends_early(state.step):
            self._saver.check()
            with self._clock.step(), self._place(state.step):
                state = self._step(arriving, state)
            if state.step == 1 and (told := self._first.judge()):
                self._trackers.log(state.step, told, kind="event")
            is_last = state.step == total
            if state.step % self._plan.log_every == 0 or is_last:
                self._log(state)
            if settings.validate_every and (state.step % settings.validate_every == 0 or is_last):
                state = self._validate(state, validation)
            if settings.checkpoint_every and state.step % settings.checkpoint_every == 0:
                self._save(state)
        self._save(state)
        return state

    def _saves_left(self, step: int) -> int:
        """Return how many checkpoints the rest of the run will save, those of new best figures aside."""
        every, total = self._plan.settings.checkpoint_every, self._plan.total_steps
        if not every or step >= total:
            return int(step < total)
        return total // every - step // every + bool(total % every)

    def _step(self, arriving: Iterator[Any], state: TrainState) -> TrainState:
        """Compute this rank's micro-batches of a step, take the step, and return the state after it."""
        world, count = self._session.world, self._plan.micro_batches
        turns = -(-count // world)
        for _ in range(turns):
            batch = self._next(arriving, state.step)
            if self._norms.is_due(state.step):
                self._norms.see(batch)
            torch.manual_seed(draw_seed(batch.key.seed, "forward", state.step, batch.key.index))
            loss, stats = self._engine.forward(batch)
            if batch.weight:
                self._engine.running.record(batch.key.index)
                self._clock.saw(len(batch.valid))
            # every rank runs the same turns; together they give the mean over the step's micro-batches
            self._engine.backward(loss * (batch.weight * turns * world / count))
            if state.step == 0:
                self._first.see(batch.weight, stats)
            self._averages.add(batch.weight, {"loss": loss.detach(), **stats, "holes": (~batch.valid).sum()})
        if self._norms.is_due(state.step):
            self._norms.close()
        rate = self._plan.learning_rate(state.step)
        outcome = self._engine.step(rate)
        self._rates = {"learning_rate": rate, "gradient_norm": outcome.gradient_norm}
        return self._account(replace(state, step=state.step + 1), outcome.applied)

    def _next(self, arriving: Iterator[Any], step: int) -> Any:
        with self._clock.waiting():
            batch = next(arriving, None)
        if batch is None or batch.key.step != step:
            found = "nothing" if batch is None else f"a micro-batch of step {batch.key.step}"
            raise OrderError(f"rank {self._session.rank}: {found} arrived in step {step}.")
        return batch.to(self._engine.device)

    def _account(self, state: TrainState, applied: bool) -> TrainState:
        """Keep a step's figures and batch statistics if it was applied; else count it as skipped, or stop."""
        if applied:
            self._averages.commit()
            self._engine.running.combine(self._plan.micro_batches)
            return state
        self._averages.forget()
        self._engine.running.discard()
        if self._plan.settings.on_nonfinite == "stop":
            raise NonFiniteError(f"step {state.step}: the loss or its gradient is not finite; no weight was changed.")
        return replace(state, skipped=state.skipped + 1)

    def _log(self, state: TrainState) -> None:
        values = {
            **self._averages.reduce(),
            **self._rates,
            **self._norms.take(),
            **self._clock.lap(self._session.world),
            "epoch": state.step / self._plan.steps_per_epoch,
            "skipped": float(state.skipped),
        }
        self._last["train"] = values
        self._trackers.log(state.step, values)

    @torch.no_grad()
    def _validate(self, state: TrainState, validation: list[Any]) -> TrainState:
        """Score the validation batches, dealt to the ranks; every rank runs as many forwards as any other."""
        world, rank = self._session.world, self._session.rank
        averages = Averages(self._engine.device)
        self._engine.module.eval()
        for turn in range(-(-len(validation) // world)):
            place = turn * world + rank
            batch = validation[min(place, len(validation) - 1)].to(self._engine.device)
            loss, stats = self._engine.forward(batch)
            averages.add(float(place < len(validation)), {"loss": loss.detach(), **stats})
        averages.commit()
        self._engine.module.train()
        values = averages.reduce()
        self._last["validation"] = values
        self._trackers.log(state.step, values, kind="validation")
        return self._keep_best(state, values)

    def _keep_best(self, state: TrainState, values: dict[str, float]) -> TrainState:
        name = self._plan.settings.best
        if name.removeprefix("-") not in values:
            raise PlanError(f"train.best={name}: a validation has no such figure; it has: {', '.join(sorted(values))}.")
        figure = values[name.removeprefix("-")] * (-1 if name.startswith("-") else 1)
        if not math.isfinite(figure) or (state.best is not None and figure <= state.best):
            return state
        state = replace(state, best=figure)
        self._save(state, figure=figure)
        return state

    def _save(self, state: TrainState, *, figure: float | None = None) -> None:
        if self._saved_step == state.step:
            return
        self._trackers.flush()
        state = replace(state, averages=self._averages.state(is_first=self._session.rank == 0))
        self._saver.save(state, self._plan.recipe, figure=figure)
        self._saved_step = state.step
        self._session.report(state.step, self._last.get("train", {}))

    def _ends_early(self, step: int) -> bool:
        """Agree, before a step, on ending here; one small collective where there are several ranks."""
        with self._place(step):
            if self._engine.any_rank(self._session.stop_requested()):
                self._reason = self._session.stop_reason(self._engine.any_rank)
        return self._reason is not None

    @contextlib.contextmanager
    def _place(self, step: int) -> Iterator[None]:
        """Give an exception that is not ours the rank and the step, where there are several ranks."""
        try:
            yield
        except MedAlignError:
            raise
        except Exception as error:
            if self._session.world == 1:
                raise
            where = f"rank {self._session.rank}, step {step}"
            name, trace = type(error).__name__, traceback.format_exc()
            if any(word in str(error) for word in TORN):  # it comes as a RuntimeError like any other
                raise PeerError(f"{where}: another rank is gone ({name}).", trace=trace) from error
            raise WorkerError(f"{where}: training failed ({name}).", trace=trace) from error
