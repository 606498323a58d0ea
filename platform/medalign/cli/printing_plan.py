"""What `medalign plan` prints: a forecast as tables, a fact a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medalign.cli.printing import show_line, show_table

if TYPE_CHECKING:
    from medalign.plan.cost import Range
    from medalign.plan.forecast import Assumptions, Forecast

Rows = Iterator[tuple[str, str]]


def show_forecast(found: Forecast, given: Assumptions) -> None:
    """Print a forecast."""
    show_table(("parameters", ""), list(_parameters(found)))
    show_table(("memory of a worker", "GB"), list(_memory(found)))
    if found.fits:
        head = ("ZeRO stage", "peak GB", f"of {found.fits.memory / 1e9:.1f} on {found.fits.gpu}", "largest micro-batch")
        show_table(head, [_stage(found, each.stage) for each in found.fits.stages])
    show_table(("work", ""), list(_work(found)))
    show_table(("cost", ""), list(_cost(found, given)))
    for note in found.notes:
        show_line(f"note: {note}")
    for caution in found.cautions:
        show_line(f"caution: {caution}")


def _parameters(found: Forecast) -> Rows:
    counts = found.parameters
    yield "trained", f"{counts.trained:,}"
    yield "frozen", f"{counts.frozen:,}"
    if counts.graph_network:
        yield "graph network (trained)", f"{counts.graph_network:,}"


def _memory(found: Forecast) -> Rows:
    memory = found.memory
    for name in ("weights", "gradients", "master", "optimizer", "buffers"):
        yield {"master": "fp32 master weights", "buffers": "engine buffers"}.get(name, name), _gb(getattr(memory, name))
    yield "micro-batch", _gb(memory.batch)
    yield "activations, saved", _gb(memory.saved)
    if memory.saved_otherwise is not None:
        yield "  with checkpointing switched", _gb(memory.saved_otherwise)
    yield "a pass at its peak", _gb(memory.working)
    if memory.logits is not None:
        yield "  of it logits", _gb(memory.logits)
    if memory.graph_network:
        yield "  of the above, graph network", _gb(memory.graph_network)
    yield "process", _gb(memory.runtime)
    yield "peak", _gb(memory.peak)
    if memory.solver:
        yield "on the host: matching problems", _gb(memory.solver)


def _stage(found: Forecast, stage: int) -> Sequence[str]:
    assert found.fits is not None
    each = found.fits.stages[stage]
    mark = (
        "fits, the smallest that does" if stage == found.fits.smallest_stage else "fits" if each.fits else "too large"
    )
    return (str(stage), f"{each.peak / 1e9:.1f}", mark, str(each.largest or "none"))


def _work(found: Forecast) -> Rows:
    work = found.work
    yield "rows" + (" (assumed)" if work.is_assumed else ""), f"{work.rows:,}"
    yield "steps", f"{work.steps:,} ({work.steps_per_epoch:,} an epoch)"
    yield "samples", f"{work.samples:,}"
    yield "forwards per worker and step", f"{work.forwards_per_step:,}"
    if found.lengths is not None:
        how = f"of {found.lengths.rows:,} rows" if found.lengths.rows else "assumed"
        yield f"tokens of a text, {how}", ", ".join(f"{name} {n:.0f}" for name, n in found.lengths.mean.items())
    if work.tokens is not None:
        yield "tokens read", f"{work.tokens:.3g}"
    yield "bytes read", f"{work.bytes_read / 1e9:.3g} GB"
    yield "object store", f"{work.object_store / 1e9:.3g} GB"


def _cost(found: Forecast, given: Assumptions) -> Rows:
    cost, saved = found.cost, found.checkpoints
    yield "a checkpoint", f"{saved.bytes / 1e9:.3g} GB, {saved.kept} kept"
    yield "its upload", f"{saved.upload_seconds:,.0f} s at {given.upload_rate / 1e6:g} MB/s a worker"
    if cost.flops is not None:
        yield "operations, counted", f"{cost.flops:.3g}"
    if cost.rule is not None:
        yield "operations, by rule", f"{cost.rule:.3g}"
    if given.gpu is None:
        yield "hours", "no --gpu given"
        return
    yield f"hours at {cost.utilisation:.0%} of {given.gpu.name}", _range(cost.hours)
    if cost.rule_hours is not None:
        yield "hours, by rule", _range(cost.rule_hours)
    if cost.dollars is not None:
        yield f"dollars at {given.price:g} a GPU-hour", _range(cost.dollars)


def _range(found: Range | None) -> str:
    return "unknown" if found is None else f"{found.estimate:,.2f} ({found.low:,.2f} to {found.high:,.2f})"


def _gb(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:,.3f}"
