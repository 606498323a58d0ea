"""Features of a corpus through Ray Data: those of the run's own encoder, in order, complete or absent."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from striped_corpus import write_corpus
from trained_run import write_run

from medalign.data.decode import decode_image
from medalign.data.reader import read_rows
from medalign.errors import CorpusError, RunError, StorageError
from medalign.evaluation.embed import embed
from medalign.evaluation.extract import extract
from medalign.exporting import export


@pytest.mark.usefixtures("ray_local")
def test_features_are_those_of_the_runs_encoder_in_the_corpus_order(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"test": 30})
    encoder = write_run(tmp_path / "run", seed=1)
    result = embed(str(tmp_path / "run"), corpus=corpus, out=str(tmp_path / "out"))
    assert [(file.path, file.rows) for file in result.splits["test"]] == [("test/part-00000.parquet", 30)]
    assert json.loads((tmp_path / "out/features.json").read_text()) == json.loads(result.dumps())
    table = pq.read_table(tmp_path / "out/test/part-00000.parquet")
    rows = [row for batch in read_rows(corpus, "test") for row in batch.to_pylist()]
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    expected = extract(encoder, [np.stack([decode_image(row["image"], 32) for row in rows])])
    np.testing.assert_allclose(np.array(table["feature"].to_pylist()), expected, rtol=1e-4, atol=1e-6)
    assert table.schema.field("feature").type.list_size == result.feature_size == 16


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_an_exported_directory_gives_the_features_of_its_run(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"test": 12})
    write_run(tmp_path / "run", seed=1)
    export(str(tmp_path / "run"), str(tmp_path / "model"))
    for source in ("run", "model"):
        embed(str(tmp_path / source), corpus=corpus, out=str(tmp_path / f"{source}-out"))
    ours, theirs = (pq.read_table(tmp_path / f"{s}-out/test/part-00000.parquet") for s in ("run", "model"))
    assert ours.equals(theirs)


def test_what_is_wrong_shows_before_anything_is_written(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 8})
    write_run(tmp_path / "run", seed=1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/precious.txt").write_text("mine")
    out = str(tmp_path / "out")
    with pytest.raises(StorageError, match="holds 1 files already"):
        embed(str(tmp_path / "run"), corpus=corpus, out=str(tmp_path / "taken"))
    with pytest.raises(CorpusError, match="no images of split 'test'"):
        embed(str(tmp_path / "run"), corpus=corpus, out=out, splits=["test"])
    with pytest.raises(RunError, match="neither a run"):
        embed(str(tmp_path / "nowhere"), corpus=corpus, out=out)
    assert (tmp_path / "taken/precious.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()
