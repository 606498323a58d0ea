"""The Ray Data job of a preparation: items in order -> rows -> shards, one record per shard."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medalign import cluster
from medalign.data import formats, rows, shards
from medalign.data.items import Item
from medalign.data.manifest import Shard, Task, columns_of
from medalign.errors import MedAlignError

if TYPE_CHECKING:
    import ray.data

TASK_ROWS = 32  # items of one encoding task
POSITION = "position"  # an item's place in its split
FAILED = "failed"  # why an item has no row; "" for a row


def stream_schema(task: Task) -> pa.Schema:
    """Return what travels between tasks: an item's place, why it has no row, and the row's columns."""
    columns = [f.with_nullable(True) for f in columns_of(task)]
    return pa.schema([pa.field(POSITION, pa.int64()), pa.field(FAILED, pa.string()), *columns])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One split, ready to run.

    Attributes:
        uri: the corpus.
        split: the split's name.
        ids: id of each item, in the rows' final order.
        items: the items, as JSON.
        recipe: how rows are made.
        shard_rows: items of a shard.
        row_group_rows: most rows of a row group.
    """

    uri: str
    split: str
    ids: tuple[str, ...]
    items: tuple[str, ...]
    recipe: rows.Recipe
    shard_rows: int
    row_group_rows: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of one shard's items: the file (None if no item became a row) and (position, reason) of the others."""

    shard: Shard | None
    failed: tuple[tuple[int, str], ...]


def run(plan: Plan) -> Iterator[Record]:
    """Run a plan on Ray and yield a record per shard, in order.

    A bad item travels as a row with a reason and no picture, so that it never moves another row to another shard.

    Raises:
        UserError: what a task found wrong with the source or the place.
    """
    from ray.exceptions import RayError

    cluster.ensure_ray()
    expected = range(0, len(plan.ids), plan.shard_rows)
    try:
        for start, row in zip(expected, _dataset(plan).iter_rows(), strict=True):
            raw = json.loads(row["record"])
            if (raw["start"], raw["stop"]) != (start, min(start + plan.shard_rows, len(plan.ids))):
                raise MedAlignError(f"a shard of items {raw['start']} to {raw['stop']} where {start} was due.")
            shard = raw["shard"] and Shard.parse(raw["shard"])
            yield Record(shard=shard, failed=tuple((position, reason) for position, reason in raw["failed"]))
    except RayError as error:
        raise cluster.own_error(error, doing=f"preparing {plan.split}") from error


def _dataset(plan: Plan) -> ray.data.Dataset:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every run at INFO
    context = ray.data.DataContext.get_current()
    before = (context.enable_progress_bars, context.print_on_execution_start, context.execution_options.preserve_order)
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    shell = functools.partial(
        write,
        uri=plan.uri,
        split=plan.split,
        task=formats.task(plan.recipe.format),
        shard_rows=plan.shard_rows,
        most=plan.row_group_rows,
    )
    try:
        return (
            ray.data.from_arrow(list(_blocks(plan)))
            .map_batches(functools.partial(encode, recipe=plan.recipe), batch_size=None, batch_format="pyarrow")
            .repartition(target_num_rows_per_block=plan.shard_rows, strict=True)
            .map_batches(shell, batch_size=None, batch_format="pyarrow")
        )
    finally:  # a dataset has its own copy of the context
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        context.execution_options.preserve_order = before[2]


def _blocks(plan: Plan) -> Iterator[pa.Table]:
    for start in range(0, len(plan.ids), TASK_ROWS):
        part = slice(start, start + TASK_ROWS)
        ids = plan.ids[part]
        yield pa.table({POSITION: list(range(start, start + len(ids))), "id": ids, "item": plan.items[part]})


def encode(batch: pa.Table, *, recipe: rows.Recipe) -> pa.Table:
    """Turn items (position, id, item) into rows of `stream_schema`, a row for an item."""
    made: list[dict[str, Any]] = []
    for listed in batch.to_pylist():
        row, reason = rows.make(Item.loads(listed["item"]), recipe)
        made.append({POSITION: listed[POSITION], "id": listed["id"], FAILED: reason, **row})
    return pa.Table.from_pylist(made, schema=stream_schema(formats.task(recipe.format)))


def write(batch: pa.Table, *, uri: str, split: str, task: Task, shard_rows: int, most: int) -> pa.Table:
    """Write one shard of the rows of `stream_schema` that have no reason against them, and return its record."""
    positions, reasons = batch[POSITION].to_pylist(), batch[FAILED].to_pylist()
    start, stop = positions[0], positions[-1] + 1
    if positions != list(range(start, stop)) or start % shard_rows:
        raise MedAlignError(f"rows {start} to {stop} of {split} came out of order.")
    columns = columns_of(task)
    good = batch.filter(pa.compute.equal(batch[FAILED], "")).select(columns.names).cast(columns)
    shard = shards.write(uri, shards.name(split, start // shard_rows), good, row_group_rows=most) if len(good) else None
    record = {
        "start": start,
        "stop": stop,
        "shard": shard and asdict(shard),
        "failed": [pair for pair in zip(positions, reasons, strict=True) if pair[1]],
    }
    return pa.table({"record": [json.dumps(record)]})
