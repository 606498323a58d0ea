"""Plan and actual: what the run's recipe foresees beside what its files say happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medalign import checkpoint, config
from medalign.checkpoint import catalogue, manifest
from medalign.config import Document
from medalign.data import manifest as corpora
from medalign.errors import MedAlignError
from medalign.plan.forecast import Forecast, forecast
from medalign.plan.rehearsals import REFUSED
from medalign.recipe import Recipe
from medalign.reports.run_files import RunFiles
from medalign.tracking.attempts import Attempt, read_attempts

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: what was planned, what happened, and by how much it differs; "" where it says nothing."""

    name: str
    planned: str
    actual: str
    difference: str


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The lines, or why there are none."""

    lines: tuple[Line, ...] = ()
    reason: str = ""


def planned(run: RunFiles) -> Planned | None:
    """Return the plan of a run's recipe beside its actual figures.

    None where the run has no attempt on record, or its corpus is not where it was: there is nothing to compare.
    """
    attempts = read_attempts(run.uri)
    corpus = run.get("data.corpus")
    if not attempts or not isinstance(corpus, str) or not _is_there(corpus):
        return None
    try:
        found = forecast(_recipe(run))
    except MedAlignError as error:
        return Planned(reason=str(error))
    except REFUSED as error:  # an objective of the user's own, say
        return Planned(reason=f"{type(error).__name__} while it was planned")
    return Planned(lines=tuple(_lines(found, run, attempts)))


def _lines(found: Forecast, run: RunFiles, attempts: Sequence[Attempt]) -> Iterator[Line]:
    last = attempts[-1]
    yield _line("steps", found.work.steps, last.last_step, "{:,.0f}")
    yield _line("samples", found.work.samples, last.last_step * run.get("train.global_batch", 1), "{:,.0f}")
    saved = checkpoint.latest(run.uri)
    if saved is not None:
        content = manifest.read(saved.uri)
        yield _line("bytes of a checkpoint", found.checkpoints.bytes, content.bytes, "{:,.0f}")
    kept = len(catalogue.complete(run.uri))
    yield Line(name="checkpoints kept, at most", planned=str(found.checkpoints.kept), actual=str(kept), difference="")
    peak = max(attempt.peak_bytes for attempt in attempts)
    if found.memory.peak is not None and peak:
        where = "GPU" if last.device == "cuda" else "process"
        yield _line(f"peak memory of rank 0's {where}, MB", found.memory.peak / 1e6, peak / 1e6, "{:,.0f}")
    seconds = sum(attempt.seconds for attempt in attempts)
    yield Line(name="hours at work", planned="", actual=f"{seconds / 3600:,.2f}", difference="")
    if found.cost.flops is not None and seconds:
        share = min(last.last_step / max(found.work.steps, 1), 1.0)
        speed = found.cost.flops * share / seconds / 1e9
        yield Line(name="billion operations a second", planned="", actual=f"{speed:,.1f}", difference="")


def _line(name: str, wanted: float, got: float, form: str) -> Line:
    difference = f"{got / wanted - 1:+.1%}" if wanted else ""
    return Line(name=name, planned=form.format(wanted), actual=form.format(got), difference=difference)


def _recipe(run: RunFiles) -> Recipe:
    document: Document = config.loads(config.dump_yaml(run.recipe), source="recipe.yaml")
    return config.build(Recipe, document)


def _is_there(corpus: str) -> bool:
    try:
        return corpora.exists(corpus)
    except MedAlignError:
        return False
