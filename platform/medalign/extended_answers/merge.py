"""From the records of extended answers to a corpus: each becomes a turn of its row's `conversations_long`, 1:1."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from medalign import storage
from medalign.data import manifest as manifests
from medalign.data import place as places
from medalign.data import shards
from medalign.data.dialogue import ASSISTANT, TURN, Turns
from medalign.data.manifest import Manifest, Shard, Split, columns_of
from medalign.errors import CorpusError
from medalign.extended_answers.records import Record

FILE_NAME = "extended_answers.jsonl"
TRAIN = "train"


def write(corpus: str, out: str, records: Sequence[Record], *, provenance: Mapping[str, str]) -> tuple[Manifest, int]:
    """Write a copy of a corpus with extended conversations; return its manifest and how many rows have one.

    A row has one if each of its answers has a record with a text; `extended_answers.jsonl` beside the shards says of
    every text, and of every quarantined one, where it comes from. The same records give the same bytes.

    Args:
        corpus: the corpus.
        out: URI of the copy.
        records: of its train split's answers, or of some of them.
        provenance: goes into the manifest's `source`.

    Raises:
        CorpusError: another corpus is at `out`, records of rows that are none, or shards that cannot be read.
    """
    manifest, text = manifests.read(corpus), _dumps(records)
    told = json.dumps([manifest.fingerprint, dict(provenance), hashlib.sha256(text).hexdigest()])
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    check_place(corpus, out, manifest)
    out = storage.absolute(out)
    done = places.claim(out, fingerprint, overwrite=True)
    by_row: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_row[record.id].append(record)
    if done is not None:
        return done, int(done.source["extended_rows"])
    try:
        splits, extended = {}, 0
        for name, split in manifest.splits.items():
            written, count = _split(corpus, out, split, by_row if name == TRAIN else None)
            splits[name], extended = replace(split, shards=written), extended + count
        if by_row:
            raise CorpusError(f"{corpus}: {len(by_row)} extended answers are of rows that it does not have.")
        storage.write_bytes(storage.join(out, FILE_NAME), text)
    except BaseException:
        storage.delete_file(storage.join(out, FILE_NAME))
        places.clear(out)
        raise
    source = {**manifest.source, **provenance, "extended_rows": str(extended)}
    finished = replace(manifest, splits=splits, source=source, fingerprint=fingerprint)
    places.finish(out, finished)
    return finished, extended


def check_place(corpus: str, out: str, manifest: Manifest) -> None:
    """Check that nothing but an extension of the same corpus would be replaced.

    Raises:
        CorpusError: something else is there.
    """
    out = storage.absolute(out)
    if out == storage.absolute(corpus):
        raise CorpusError(f"{out}: the corpus itself; its extension needs a place of its own.")
    if manifests.exists(out) and manifests.read(out).source.get("extended_from") != manifest.fingerprint:
        raise CorpusError(f"{out}: another corpus is here; choose another place.")


def extended_turns(turns: Turns, records: Sequence[Record]) -> Turns | None:
    """Return a conversation with its answers extended, None if one of them has no text.

    Raises:
        CorpusError: not one record for each answer.
    """
    texts = {record.turn: record.text for record in records}
    answers = sum(turn["from"] == ASSISTANT for turn in turns)
    if sorted(texts) != list(range(answers)) or len(records) != answers:
        raise CorpusError(f"row {records[0].id}: {len(records)} extended answers for {answers}; extend it anew.")
    if not all(texts.values()):
        return None
    return [{**turn, "value": texts[n // 2]} if turn["from"] == ASSISTANT else turn for n, turn in enumerate(turns)]


def _split(
    corpus: str, out: str, split: Split, by_row: dict[str, list[Record]] | None
) -> tuple[tuple[Shard, ...], int]:
    """Write a split's shards anew, or copy them; rows that are met are taken out of `by_row`."""
    found, extended = [], 0
    for shard in split.shards:
        if by_row is None:
            storage.write_bytes(storage.join(out, shard.path), storage.read_bytes(storage.join(corpus, shard.path)))
            found.append(shard)
            continue
        rows = shards.read(corpus, shard)
        long = []
        for name, turns in zip(rows["id"].to_pylist(), rows["conversations"].to_pylist(), strict=True):
            records = by_row.pop(name, [])
            long.append(extended_turns(turns, records) if records else None)
        extended += sum(turns is not None for turns in long)
        place = rows.schema.get_field_index("conversations_long")
        column = pa.array(long, pa.list_(TURN))
        rows = rows.set_column(place, rows.schema.field(place), column).cast(columns_of("vqa"))
        found.append(shards.write(out, shard.path, rows, row_group_rows=max(shard.row_groups)))
    return tuple(found), extended


def _dumps(records: Sequence[Record]) -> bytes:
    lines = (json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) for record in records)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
