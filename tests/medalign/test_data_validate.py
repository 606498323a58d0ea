"""Validation and display of corpora written row by row: every kind of damage is found, and named."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from drawn_images import encoded, pixels
from PIL import Image

from medalign import storage
from medalign.data import job, manifest, rows, shards, show
from medalign.data.items import Item
from medalign.data.manifest import COLUMNS, Manifest, Split
from medalign.data.validate import validate
from medalign.errors import CorpusError

RECIPE = rows.Recipe(format="image-folder", options={}, max_side=64, max_pixels=10_000, encoding="png", salt="s")
PLAN = {"train": [("a", "p0"), ("b", "p1"), ("a", "p2"), ("b", "p2"), ("a", "p3")], "test": [("a", "p8"), ("b", "p9")]}


def write_corpus(folder, plan=None, *, seeds=None):
    """Write a corpus of (label, group) rows per split, two rows a shard and one a row group; return its manifest."""
    splits, number = {}, 0
    for split, members in (plan or PLAN).items():
        made = []
        for label, group in members:
            seed = number if seeds is None else seeds[number]
            path = folder / "source" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pixels(seed, size=(30, 40))))
            row, reason = rows.make(Item(key=path.name, path=str(path), group=group, label=label), RECIPE)
            assert not reason
            made.append({"id": f"id{number}", **row})
            number += 1
        table = [job.pa.Table.from_pylist(made[i : i + 2], schema=COLUMNS) for i in range(0, len(made), 2)]
        uri = str(folder / "corpus")
        records = [shards.write(uri, shards.name(split, i), t, row_group_rows=1) for i, t in enumerate(table)]
        splits[split] = Split(
            rows=len(made),
            groups=len({group for _, group in members}),
            classes=dict(sorted(Counter(label for label, _ in members).items())),
            shards=tuple(records),
        )
    corpus = Manifest(name="drawn", splits=splits, classes=("a", "b"), licence="CC0")
    manifest.write(str(folder / "corpus"), corpus)
    return str(folder / "corpus"), corpus


def test_a_sound_corpus_has_no_problem(tmp_path):
    uri, _ = write_corpus(tmp_path)
    report = validate(uri)
    assert report.is_valid
    assert (report.shards, report.rows, report.duplicates, report.problems) == (4, 7, 0, ())


def test_shards_have_bounded_row_groups_and_the_same_bytes_for_the_same_rows(tmp_path):
    _, first = write_corpus(tmp_path / "1")
    _, again = write_corpus(tmp_path / "2")
    assert first == again
    assert first.splits["train"].shards[0].row_groups == (1, 1)
    assert first.splits["train"].shards[2].rows == 1


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_found(tmp_path, place):
    uri, corpus = write_corpus(tmp_path)
    path = storage.join(uri, corpus.splits["train"].shards[1].path)
    data = bytearray(storage.read_bytes(path))
    data[int(place * len(data))] ^= 1
    storage.write_bytes(path, bytes(data))
    report = validate(uri)
    assert not report.is_valid
    assert [problem for problem in report.problems if "train/part-00001.parquet" in problem and "sha256" in problem]
    assert report.rows == 5


def test_missing_truncated_and_unnamed_shards_are_found(tmp_path):
    uri, corpus = write_corpus(tmp_path)
    first, second, third = (shard.path for shard in corpus.splits["train"].shards)
    storage.write_bytes(storage.join(uri, "train/part-00009.parquet"), storage.read_bytes(storage.join(uri, first)))
    storage.delete_file(storage.join(uri, second))
    storage.write_bytes(storage.join(uri, third), storage.read_bytes(storage.join(uri, third))[:-50])
    problems = " ".join(validate(uri).problems)
    assert f"{second}: missing" in problems
    assert f"{third}: " in problems
    assert "1 Parquet files that the manifest does not name" in problems


def test_a_group_in_two_splits_is_found(tmp_path):
    uri, _ = write_corpus(tmp_path, {"train": [("a", "p0"), ("b", "p1")], "test": [("a", "p1")]})
    (problem,) = validate(uri).problems
    assert problem.startswith("1 groups are in test and train: ")


def test_the_same_picture_in_two_splits_is_found_and_within_one_counted(tmp_path):
    plan = {"train": [("a", "p0"), ("b", "p1"), ("a", "p2")], "test": [("a", "p3")]}
    uri, _ = write_corpus(tmp_path, plan, seeds=[0, 1, 1, 0])
    report = validate(uri)
    assert report.problems == ("1 pictures are in test and train, pixel for pixel: id0.",)
    assert report.duplicates == 1


def test_counts_and_classes_that_disagree_are_found(tmp_path):
    uri, corpus = write_corpus(tmp_path)
    train = dataclasses.replace(corpus.splits["train"], classes={"a": 2, "b": 3})
    manifest.write(uri, dataclasses.replace(corpus, splits={**corpus.splits, "train": train}, classes=("a",)))
    problems = validate(uri).problems
    assert "split train: rows, groups or class counts differ from the manifest." in problems
    assert "labels outside the manifest's classes: b." in problems


def test_an_image_that_is_not_what_its_row_says_is_found(tmp_path):
    uri, corpus = write_corpus(tmp_path)
    shard = corpus.splits["test"].shards[0]
    table = shards.read(uri, shard).to_pylist()
    table[0]["image"] = table[1]["image"]
    table[1]["image"] = table[1]["image"][:80]
    forged = shards.write(uri, shard.path, job.pa.Table.from_pylist(table, schema=COLUMNS), row_group_rows=1)
    test = dataclasses.replace(corpus.splits["test"], shards=(forged,))
    manifest.write(uri, dataclasses.replace(corpus, splits={**corpus.splits, "test": test}))
    (problem,) = validate(uri).problems
    assert problem == f"{shard.path}: 2 images that do not decode to what the row says: id5, id6."


def test_a_place_without_a_manifest_is_no_corpus(tmp_path):
    for ask in (validate, show.show):
        with pytest.raises(CorpusError, match="no corpus here"):
            ask(str(tmp_path))


def test_a_summary_counts_and_a_contact_sheet_shows_every_class(tmp_path):
    uri, _ = write_corpus(tmp_path)
    summary = show.show(uri, contact_sheet=tmp_path / "sheets" / "sheet.png")
    assert (summary.rows, summary.classes, summary.licence) == (7, ("a", "b"), "CC0")
    assert summary.splits["train"].classes == {"a": 3, "b": 2}
    assert summary.splits["train"].groups == 4
    assert summary.bytes == sum(split.bytes for split in summary.splits.values()) > 0
    sheet = np.asarray(Image.open(tmp_path / "sheets" / "sheet.png").convert("L"))
    # Two lines of pictures: in the columns right of the titles, two runs of rows that are not paper.
    is_drawn = (sheet[92:, 218:330] < 250).mean(axis=1) > 0.5
    assert np.count_nonzero(np.diff(is_drawn.astype(int)) == 1) + int(is_drawn[0]) == 2
    assert show.show(uri).contact_sheet is None
