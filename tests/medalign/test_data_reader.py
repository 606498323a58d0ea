"""Rows by number: in any order, across shards, and never more than a column can hold."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from striped_corpus import write_corpus

from medalign.data.reader import RowSource, read_rows
from medalign.errors import CorpusError


def test_rows_are_numbered_through_the_shards_in_manifest_order(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 50, "val": 6})
    source = RowSource.open(corpus, ("train", "val"))
    assert source.sizes == (8, 8, 4, 8, 8, 4, 8, 2, 6)
    wanted = np.array([55, 3, 49, 20, 19, 3, 50])
    found = source.take(wanted, ("id", "label"))
    assert found["id"].to_pylist() == ["val-5", "train-3", "train-49", "train-20", "train-19", "train-3", "val-0"]
    assert source.label_index(found["label"]).tolist() == [wanted_ // 2 % 2 for wanted_ in (5, 3, 49, 20, 19, 3, 0)]
    assert [row["id"] for b in read_rows(corpus, "val") for row in b.to_pylist()] == [f"val-{i}" for i in range(6)]


def test_a_row_without_a_known_label_has_none(tmp_path: Path) -> None:
    def unlabel(split: str, i: int, row: dict) -> None:
        row["label"] = None if i == 1 else row["label"]

    source = RowSource.open(write_corpus(tmp_path / "stripes", {"train": 3}, unlabel), ("train",))
    assert source.label_index(source.take(np.arange(3))["label"]).tolist() == [0, -1, 1]


def test_the_images_of_a_window_may_exceed_what_32_bit_offsets_address(tmp_path: Path) -> None:
    source = RowSource.open(write_corpus(tmp_path / "stripes", {"train": 30}), ("train",))
    assert source.take(np.array([29, 0])).schema.field("image").type == pa.large_binary()


def test_a_shard_that_is_gone_or_torn_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 50})
    source = RowSource.open(corpus, ("train",))
    Path(source.shards[1]).write_bytes(b"PAR1 torn")
    Path(source.shards[2]).unlink()
    assert source.take(np.array([0])).num_rows == 1
    for row, shard in ((20, 1), (40, 2)):
        with pytest.raises(CorpusError, match=f"{Path(source.shards[shard]).name}: row group 0 cannot be read"):
            source.take(np.array([row]))
