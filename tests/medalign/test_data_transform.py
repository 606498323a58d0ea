"""Mapping a corpus on Ray Data: every row, in order, whatever the actors, with holes where images are broken."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from striped_corpus import Breaking, Colours, write_corpus

from medalign.data.decode import decode_image
from medalign.data.reader import read_rows
from medalign.data.transform import MapperActor, Mapping, load, map_corpus, save
from medalign.errors import CorpusError, MedAlignError


def read(out: Path, split: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((out / split).iterdir())])


def break_some(split: str, i: int, row: dict) -> None:
    if i in (0, 33):
        row["image"] = b"\x89PNG broken"


@pytest.mark.usefixtures("ray_local")
def test_rows_keep_the_corpus_order_across_actors_and_files(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 50}, break_some)
    mapping = Mapping(mapper=Colours, arguments={"offset": 2.0}, size=16, actors=2, batch=5, file_rows=20)
    files = map_corpus(corpus, "train", mapping, out=str(tmp_path / "out"))
    assert [(file.path, file.rows, file.unreadable) for file in files] == [
        ("train/part-00000.parquet", 20, 1),
        ("train/part-00001.parquet", 20, 1),
        ("train/part-00002.parquet", 10, 0),
    ]
    found = read(tmp_path / "out", "train")
    assert found.column_names == ["id", "group", "label", "colour", "brightness", "process"]
    assert found["id"].to_pylist() == [f"train-{i}" for i in range(50)]
    rows = [row for batch in read_rows(corpus, "train") for row in batch.to_pylist()]
    for row, mapped in zip(rows, found.to_pylist(), strict=True):
        if row["id"] in ("train-0", "train-33"):
            assert (mapped["colour"], mapped["brightness"]) == (None, None)
        else:
            colour = decode_image(row["image"], 16).mean((1, 2)) + 2
            np.testing.assert_allclose(mapped["colour"], colour, rtol=1e-5)
            assert mapped["label"] == row["label"]


@pytest.mark.usefixtures("ray_local")
def test_a_failing_mapper_is_named_without_its_text(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 10})
    mapping = Mapping(mapper=Breaking, arguments={}, size=16)
    with pytest.raises(MedAlignError, match="mapping the train split of .* failed in a task") as caught:
        map_corpus(corpus, "train", mapping, out=str(tmp_path / "out"))
    assert "quote a patient" not in str(caught.value)


def test_a_split_that_is_not_there_is_refused_before_ray_starts(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 10})
    with pytest.raises(CorpusError, match="no images of split 'test'"):
        map_corpus(corpus, "test", Mapping(mapper=Colours, arguments={"offset": 0.0}, size=16), out=str(tmp_path))


def test_a_block_of_nothing_but_broken_images_keeps_its_columns(tmp_path: Path) -> None:
    from medalign.data.reader import RowSource

    def break_all(split: str, i: int, row: dict) -> None:
        row["image"] = b"broken"

    corpus = write_corpus(tmp_path / "stripes", {"train": 4}, break_all)
    (block,) = load({"id": np.array([0])}, source=RowSource.open(corpus, ("train",)), size=16)
    mapped = MapperActor(Mapping(mapper=Colours, arguments={"offset": 0.0}, size=16))(block)
    assert mapped["colour"].null_count == 4
    assert mapped.schema.field("colour").type == pa.list_(pa.float32(), 3)


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    block = pa.table({"place": [0, 2, 1], "readable": [True] * 3})
    with pytest.raises(MedAlignError, match="came out of order"):
        save(block, out=str(tmp_path), split="train", file_rows=10)
    with pytest.raises(MedAlignError, match="came out of order"):
        save(pa.table({"place": [3, 4], "readable": [True] * 2}), out=str(tmp_path), split="train", file_rows=10)
