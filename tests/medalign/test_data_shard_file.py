"""Damage: whatever happens to a corpus's files is seen before a row leaves the reader, and the policy decides."""

import contextlib
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from striped_corpus import write_corpus

from medalign import storage
from medalign.data import manifest, shard_file
from medalign.data.batches import BatchStream
from medalign.data.order import Order
from medalign.data.reader import RowSource, read_rows
from medalign.data.settings import Data
from medalign.data.shard_file import ShardDamage, ShardFile
from medalign.errors import CorpusError

ALL = np.arange(50)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_corpus(tmp_path / "stripes", {"train": 50})  # three shards: row groups of 8, 8 and 4; of 8 and 2


def as_schema_1(corpus: str) -> str:
    """Take away what schema 1 did not know."""
    path = Path(corpus, manifest.FILE_NAME)
    raw = json.loads(path.read_text())
    raw["schema"] = "medalign.corpus/1"
    for shard in raw["splits"]["train"]["shards"]:
        del shard["ranges"]
    path.write_text(json.dumps(raw))
    return corpus


def shard(corpus: str, number: int = 0) -> Path:
    return Path(corpus, "train", f"part-{number:05d}.parquet")


def test_the_ranges_of_a_shard_cover_all_of_it_but_the_magic_bytes(corpus: str) -> None:
    for file in manifest.read(corpus).split("train").shards:
        ends = [low + size for low, size, _ in file.ranges]
        assert [low for low, _, _ in file.ranges] == [4, *ends[:-1]]
        assert ends[-1] == file.bytes
        assert len(file.ranges) == len(file.row_groups) + 1


@pytest.mark.parametrize("schema", [1, 2])
def test_a_whole_corpus_of_either_schema_reads_the_same(corpus: str, schema: int, tmp_path: Path) -> None:
    expected = RowSource.open(write_corpus(tmp_path / "again" / "stripes", {"train": 50}), ("train",)).take(ALL)
    source = RowSource.open(corpus if schema == 2 else as_schema_1(corpus), ("train",))
    assert bool(source.files[0].ranges) == (schema == 2)
    assert source.take(ALL) == expected
    assert pa.Table.from_batches(read_rows(corpus, "train", ("image", "label")))["label"] == expected["label"]


@pytest.mark.parametrize("schema", [1, 2])
def test_a_flipped_bit_anywhere_is_seen_before_any_row_of_its_row_group(corpus: str, schema: int) -> None:
    if schema == 1:
        as_schema_1(corpus)
    file = manifest.read(corpus).split("train").shards[0]
    whole = shard(corpus).read_bytes()
    draw = np.random.default_rng(0)
    seen = 0
    for place in draw.integers(4, len(whole), 150).tolist():
        broken = bytearray(whole)
        broken[place] ^= 1 << int(draw.integers(0, 8))
        shard(corpus).write_bytes(broken)
        hit = sum(low <= place for low, _, _ in file.ranges) - 1  # the row group, or 3 for the footer
        for group in range(3):
            with contextlib.suppress(ShardDamage):
                ShardFile(str(shard(corpus)), file).read(group)
                assert schema == 2, "a shard of schema 1 is refused whole"
                assert group != hit
                assert hit != 3
                continue
            seen += 1
    assert seen == (450 if schema == 1 else seen)
    assert seen >= 150


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize("kind", ["cut short", "longer", "missing", "swapped", "empty", "not Parquet", "index"])
def test_every_kind_of_damage_stops_the_run_and_names_the_shard(corpus: str, kind: str, schema: int) -> None:
    if schema == 1:
        as_schema_1(corpus)
    damage(corpus, kind)
    if kind == "index":
        path = Path(corpus, manifest.FILE_NAME)
        raw = json.loads(path.read_text())
        raw["splits"]["train"]["shards"][0]["row_groups"] = [8, 4, 8]  # still 20 rows
        path.write_text(json.dumps(raw))
    source = RowSource.open(corpus, ("train",))
    with pytest.raises(CorpusError, match=r"part-0000[01].parquet: row group \d cannot be read: .*; `medalign data"):
        source.take(ALL)
    with pytest.raises(CorpusError, match=r"part-0000[01].parquet: row group \d cannot be read"):
        list(read_rows(corpus, "train", ("image",)))


def damage(corpus: str, kind: str) -> None:
    first, second = shard(corpus), shard(corpus, 1)
    whole = first.read_bytes()
    if kind == "cut short":
        first.write_bytes(whole[:-1000])
    if kind == "longer":
        first.write_bytes(whole + b"more")
    if kind == "missing":
        first.unlink()
    if kind == "swapped":
        first.write_bytes(second.read_bytes())
        second.write_bytes(whole)
    if kind == "empty":
        first.write_bytes(b"")
    if kind == "not Parquet":
        first.write_bytes(bytes(len(whole)))


def test_shards_of_equal_length_that_were_swapped_are_told_apart(corpus: str) -> None:
    first, second = manifest.read(corpus).split("train").shards[:2]
    with pytest.raises(ShardDamage, match="sha256 is not the manifest's"):
        ShardFile(str(shard(corpus, 1)), replace(first, bytes=second.bytes)).read(0)


def test_skip_makes_holes_of_exactly_the_damaged_row_group(corpus: str) -> None:
    low, size, _ = manifest.read(corpus).split("train").shards[0].ranges[1]
    broken = bytearray(shard(corpus).read_bytes())
    broken[low + size // 2] ^= 4
    shard(corpus).write_bytes(broken)
    source = RowSource.open(corpus, ("train",), on_damage="skip")
    order = Order(seed=1, row_groups=source.sizes, micro_batch=10, global_batch=50, shuffle_rows=50)
    (whole_stream, stream) = (
        BatchStream(order, rows, Data(corpus=corpus, image_size=16), 1)
        for rows in (RowSource.open(write_corpus(Path(corpus).parent / "whole", {"train": 50}), ("train",)), source)
    )
    for batch, whole in zip(stream.plain(0, start=0, stop=1), whole_stream.plain(0, start=0, stop=1), strict=True):
        assert batch.ids.tolist() == whole.ids.tolist()
        lost = (batch.ids >= 8) & (batch.ids < 16)
        assert batch.valid.tolist() == (~lost).tolist()
        assert batch.labels[~lost].tolist() == whole.labels[~lost].tolist()
        assert (batch.images[~lost] == whole.images[~lost]).all()
    found = source.take(np.array([7, 8, 15]), ("id", "image", "label"))
    assert found["id"].to_pylist() == ["train-7", "train/part-00000.parquet/1/0", "train/part-00000.parquet/1/7"]
    assert found["image"].is_null().to_pylist() == [False, True, True]
    reasons = [
        decoded for block in stream.read_window(order.windows(0, 1)[0]) for decoded in stream.decoder(block)["reason"]
    ]
    assert sorted(set(reasons)) == ["", "its shard is damaged"]
    assert reasons.count("its shard is damaged") == 8


@pytest.mark.parametrize("kind", ["swapped", "missing", "cut short"])
def test_refetch_goes_on_once_the_place_is_whole_again(corpus: str, kind: str) -> None:
    expected = RowSource.open(corpus, ("train",)).take(ALL)
    whole = {number: shard(corpus, number).read_bytes() for number in range(2)}
    shard_file.open_shard.cache_clear()
    damage(corpus, kind)
    source = RowSource.open(corpus, ("train",), on_damage="refetch")

    def mend() -> None:
        time.sleep(0.2)
        for number, data in whole.items():
            storage.write_bytes(str(shard(corpus, number)), data)

    mending = threading.Thread(target=mend)
    mending.start()
    assert source.take(ALL) == expected
    mending.join()


def test_refetch_gives_up_on_a_place_that_stays_damaged(corpus: str) -> None:
    damage(corpus, "not Parquet")
    with pytest.raises(CorpusError, match="sha256 is not the manifest's"):
        RowSource.open(corpus, ("train",), on_damage="refetch").take(ALL)
