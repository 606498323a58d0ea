"""Preparing chat and VQA corpora: splits, nested subsets, silence refused; corpora of images stay as they were."""

import json

import numpy as np
import prepared_here
import published_sets
import pytest
from drawn_images import write_folder

from medalign.cli import main
from medalign.data import dialogue, job, manifest, rows, splits, subset
from medalign.data import prepare as preparing
from medalign.data.items import Item
from medalign.data.prepare import prepare
from medalign.data.reader import RowSource, read_rows
from medalign.data.validate import validate
from medalign.errors import CorpusError, QuarantineError

FINGERPRINT = "8ab2bb8b359af861cb06f2add811db0ca306f210e1bea46373b1c66e9dc3128b"
WORDS = ("id", "group", "conversations", "question", "answer")


@pytest.fixture
def here(monkeypatch):
    """Prepare in this process, without Ray."""
    monkeypatch.setattr(job, "run", prepared_here.run_here)


def read(uri, split, columns=WORDS):
    return [row for batch in read_rows(str(uri), split, columns) for row in batch.to_pylist()]


@pytest.mark.usefixtures("ray_local")
def test_a_chat_corpus_is_prepared_by_the_job_with_its_words_beside_the_images(tmp_path):
    source, records = published_sets.llava_med(tmp_path / "set")
    corpus = prepare(source, format="llava-med", out=str(tmp_path / "c"), fractions={})
    assert (corpus.task, corpus.schema) == ("chat", "medalign.corpus/3")
    assert manifest.read(str(tmp_path / "c")) == corpus
    found = read(tmp_path / "c", "train", (*WORDS, "image", "conversations_long"))
    assert sorted(row["conversations"][1]["value"] for row in found) == sorted(
        "3" if n == 3 else f"Figure {n}." for n in range(len(records))
    )
    assert sum(row["conversations_long"] is not None for row in found) == 1
    assert validate(str(tmp_path / "c")).is_valid
    for row in found:
        assert row["conversations"] == dialogue.turns(row["conversations"])


@pytest.mark.usefixtures("here")
def test_missing_pictures_are_counted_and_too_many_of_them_stop_the_preparation(tmp_path):
    source, _ = published_sets.llava_med(tmp_path / "set")
    (tmp_path / "set" / "images" / "0_F1.jpg").unlink()
    with pytest.raises(QuarantineError, match="1 of 8 items so far are bad.*file not found"):
        prepare(source, format="llava-med", out=str(tmp_path / "c"), fractions={})
    corpus = prepare(source, format="llava-med", out=str(tmp_path / "c"), fractions={}, quarantine_budget=0.2)
    assert [bad["reason"] for bad in corpus.quarantined] == ["file not found"]
    assert corpus.splits["train"].rows == 7
    assert len({row["id"] for row in read(tmp_path / "c", "train")}) == 7


@pytest.mark.usefixtures("here")
def test_a_sample_without_an_answer_stops_the_preparation_and_is_named(tmp_path):
    source, records = published_sets.llava_med(tmp_path / "set")
    for n in (2, 4):
        for turn in records[n]["conversations"][1::2]:
            turn["value"] = "  "
    (tmp_path / "set" / "chat.json").write_text(json.dumps(records))
    with pytest.raises(CorpusError, match="2 of 8 samples have no answer to learn from.*record 2, 4 "):
        prepare(source, format="llava-med", out=str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


@pytest.mark.usefixtures("here")
def test_the_standard_split_says_how_many_images_it_shares_and_the_grouped_one_shares_none(tmp_path):
    source = published_sets.vqa_rad(tmp_path / "set")
    standard = prepare(source, format="vqa-rad", out=str(tmp_path / "s"))
    assert {name: split.rows for name, split in standard.splits.items()} == {"train": 17, "test": 7}
    assert standard.shared_groups == {"test and train": 7}
    report = validate(str(tmp_path / "s"))
    assert report.is_valid
    assert any("7 groups are in test and train" in note for note in report.notes)

    shares = {"val": 0.25, "test": 0.25}
    options = {"split": "grouped"}
    drawn = {}
    for seed in (0, 2):
        out = str(tmp_path / f"g{seed}")
        corpus = prepare(source, format="vqa-rad", out=out, options=options, fractions=shares, split_seed=seed)
        assert corpus.shared_groups == {}
        assert sum(split.rows for split in corpus.splits.values()) == 23
        drawn[seed] = {split: {row["group"] for row in read(out, split)} for split in corpus.splits}
        assert {split: len(groups) for split, groups in drawn[seed].items()} == {"train": 4, "val": 2, "test": 2}
    assert drawn[0] != drawn[2]


@pytest.mark.usefixtures("here")
def test_validation_is_carved_out_of_train_by_image_and_test_stays_as_published(tmp_path):
    source = published_sets.vqa_rad(tmp_path / "set")
    whole = prepare(source, format="vqa-rad", out=str(tmp_path / "a"))
    carved = prepare(source, format="vqa-rad", out=str(tmp_path / "b"), fractions={"val": 0.25}, split_seed=3)
    groups = {split: {row["group"] for row in read(tmp_path / "b", split)} for split in carved.splits}
    assert not groups["train"] & groups["val"]
    assert carved.splits["train"].rows + carved.splits["val"].rows == whole.splits["train"].rows
    assert read(tmp_path / "b", "test") == read(tmp_path / "a", "test")


@pytest.mark.usefixtures("here")
def test_shares_of_train_are_nested_and_the_other_splits_stay_whole(tmp_path):
    source = published_sets.vqa_rad(tmp_path / "set")
    ids = {}
    for share in (0.1, 0.4, 1.0):
        out = str(tmp_path / f"c{share}")
        corpus = prepare(source, format="vqa-rad", out=out, share=share, share_seed=5)
        ids[share] = {row["id"] for row in read(out, "train")}
        assert corpus.splits["test"].rows == 7
        stated = {key: corpus.source[key] for key in corpus.source if key.startswith("share")}
        whole = {"share": f"{share:g}", "share_seed": "5", "share_of": "17"}
        assert stated == (whole if share < 1 else {})
    assert ids[0.1] < ids[0.4] < ids[1.0]
    assert [len(each) for each in ids.values()] == [2, 7, 17]


def test_a_subset_is_a_function_of_seed_and_name_only():
    keys = [f"row {n}" for n in range(1000)]
    chosen = {share: subset.nested(keys, share, seed=1) for share in (0.1, 0.4, 0.7, 1.0)}
    assert [sum(each) for each in chosen.values()] == [100, 400, 700, 1000]
    for small, large in ((0.1, 0.4), (0.4, 0.7)):
        assert all(b for a, b in zip(chosen[small], chosen[large], strict=True) if a)
    assert subset.nested(keys[::-1], 0.1, seed=1)[::-1] == chosen[0.1]
    other = subset.nested(keys, 0.1, seed=2)
    assert 0 < sum(a and b for a, b in zip(other, chosen[0.1], strict=True)) < 30  # 10 expected
    with pytest.raises(CorpusError, match=r"share must be in \(0, 1\], got 0"):
        subset.nested(keys, 0, seed=1)


@pytest.mark.usefixtures("here")
def test_a_corpus_of_images_is_written_as_before_there_were_words_and_says_so_if_words_are_asked_of_it(tmp_path):
    source = str(write_folder(tmp_path / "set", per_class=4))
    corpus = prepare(source, format="image-folder", out=str(tmp_path / "c"), fractions={})
    assert corpus.schema == "medalign.corpus/2"
    raw = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert not {"task", "shared_groups"} & set(raw)
    assert manifest.read(str(tmp_path / "c")).task == "images"
    with pytest.raises(CorpusError, match="has no column 'question'"):
        RowSource.open(str(tmp_path / "c"), ("train",)).take(np.arange(2), ("id", "question"))


def test_the_fingerprint_of_a_corpus_of_images_is_that_of_the_release_before_words():
    """Another fingerprint would make every user prepare every corpus anew."""
    recipe = rows.Recipe(
        format="image-folder", options={"split_by": ""}, max_side=512, max_pixels=9, encoding="auto", salt=""
    )
    item = Item(key="a.png", path="/x/a.png", group="a.png", size=5, split="train", label="cyst")
    draft = manifest.Manifest(name="n", splits={}, classes=("cyst",))
    layout = preparing.Layout(shard_rows=64, row_group_rows=8, budget=0)
    assert preparing._fingerprint(draft, [("k", item)], recipe, layout) == FINGERPRINT


def test_other_groups_are_drawn_for_another_seed_and_published_sharing_must_be_allowed():
    groups = [f"g{n}" for n in range(40)]
    drawn = [splits.assign(groups, [None] * 40, [None] * 40, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    torn = (["a", "a", "b"], [None] * 3, ["train", "test", "test"])
    with pytest.raises(CorpusError, match="1 groups are in more than one split"):
        splits.assign(*torn)
    assert splits.assign(*torn, may_share=True) == ["train", "test", "test"]
    assert splits.shared(torn[0], torn[2]) == {"test and train": 1}


@pytest.mark.usefixtures("here")
def test_the_command_takes_shares_seeds_and_the_options_of_a_set(tmp_path, capsys):
    source = published_sets.vqa_rad(tmp_path / "set")
    words = [
        "data",
        "prepare",
        source,
        "--format",
        "vqa-rad",
        "--out",
        str(tmp_path / "c"),
        "--option",
        "split=grouped",
    ]
    words += ["--split-seed", "2", "--fractions", "val=0.25,test=0.25", "--share", "0.5", "--share-seed", "7"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    corpus = manifest.read(str(tmp_path / "c"))
    assert {key: corpus.source[key] for key in ("split_seed", "share", "share_seed")} == {
        "split_seed": "2",
        "share": "0.5",
        "share_seed": "7",
    }
    assert corpus.splits["train"].rows == round(0.5 * int(corpus.source["share_of"]))
    assert capsys.readouterr().out
