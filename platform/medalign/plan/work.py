"""The work of a run: steps, samples, tokens, bytes that are read, and what the object store must hold."""

from __future__ import annotations

from dataclasses import dataclass

from medalign.data import manifest
from medalign.plan.micro_batches import Lengths, texts_read
from medalign.plan.run_plan import RunPlan
from medalign.recipe import Recipe
from medalign_core.models.multimodal.settings import Llava

TASK_BYTES, TASK_MICRO_BATCHES = 128 << 20, 16  # what one decoding task makes at most; as data/stream.py has it
PREFETCHED = 2  # micro-batches that each worker holds ahead


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run goes through.

    Attributes:
        rows: of the training split.
        steps: optimizer steps; exact where the corpus is at hand, and for given rows.
        steps_per_epoch: whole steps of one pass; the rest of the rows waits for the next pass.
        samples: rows that are trained on, with repetitions.
        forwards_per_step: micro-batches of a step that one worker computes.
        tokens: that the language model reads, all texts of all samples; None without words.
        bytes_read: of the stored rows, over all epochs.
        object_store: bytes of the decoded micro-batches that are under way at once.
        is_assumed: the rows are given or published, not counted.
    """

    rows: int
    steps: int
    steps_per_epoch: int
    samples: int
    forwards_per_step: int
    tokens: float | None
    bytes_read: int
    object_store: int
    is_assumed: bool


def work_of_corpus(recipe: Recipe, plan: RunPlan, lengths: Lengths | None) -> Work:
    """Return the work of a run whose corpus is at hand; the steps are those of its loop."""
    order = plan.stream.order
    splits = ("train", *recipe.data.allow_splits)
    stored = sum(
        shard.bytes
        for part in recipe.data.parts
        for split in dict.fromkeys(splits)
        for shard in manifest.read(part.uri).split(split).shards
    )
    return _work(
        recipe,
        rows=order.rows,
        steps=plan.total_steps,
        row_bytes=stored / max(order.rows, 1),
        decoded=plan.stream.decoder.row_bytes,
        lengths=lengths,
        is_assumed=False,
    )


def work_of_rows(recipe: Recipe, rows: int, *, row_bytes: int, lengths: Lengths | None) -> Work:
    """Return the work of a run on so many rows; as `work_of_corpus` but for what is stored."""
    train = recipe.train
    steps = train.steps or (train.epochs or 0) * (rows // train.global_batch)
    side = recipe.data.image_size
    decoded = 3 * side**2 + 8 * recipe.model.max_length if isinstance(recipe.model, Llava) else 6 * side**2
    return _work(recipe, rows=rows, steps=steps, row_bytes=row_bytes, decoded=decoded, lengths=lengths, is_assumed=True)


def _work(
    recipe: Recipe,
    *,
    rows: int,
    steps: int,
    row_bytes: float,
    decoded: int,
    lengths: Lengths | None,
    is_assumed: bool,
) -> Work:
    train = recipe.train
    samples = steps * train.global_batch
    is_chat = isinstance(recipe.model, Llava)
    tokens = samples * lengths.per_row(texts_read(recipe)) if is_chat and lengths else None
    micro_batch = train.micro_batch * decoded
    together = min(max(TASK_BYTES // max(micro_batch, 1), 1), TASK_MICRO_BATCHES)
    workers = max(train.workers, 1)
    under_way = micro_batch * (PREFETCHED * workers + 2 * together * workers) if train.workers else 0
    return Work(
        rows=rows,
        steps=steps,
        steps_per_epoch=rows // train.global_batch,
        samples=samples,
        forwards_per_step=-(-(train.global_batch // train.micro_batch) // workers),
        tokens=tokens,
        bytes_read=round(samples * row_bytes),
        object_store=under_way,
        is_assumed=is_assumed,
    )
