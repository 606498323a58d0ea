"""Preparing a corpus in this process: the job's own two steps on its own blocks, without Ray between them."""

import json

from medalign.data import formats, job
from medalign.data.manifest import Shard


def run_here(plan):
    """Do what `job.run` does: encode all items, cut them into shards, write each."""
    import pyarrow as pa

    rows = pa.concat_tables([job.encode(block, recipe=plan.recipe) for block in job._blocks(plan)])
    for start in range(0, len(rows), plan.shard_rows):
        record = job.write(
            rows.slice(start, plan.shard_rows),
            uri=plan.uri,
            split=plan.split,
            task=formats.task(plan.recipe.format),
            shard_rows=plan.shard_rows,
            most=plan.row_group_rows,
        )
        raw = json.loads(record["record"][0].as_py())
        yield job.Record(shard=raw["shard"] and Shard.parse(raw["shard"]), failed=tuple(map(tuple, raw["failed"])))
