"""Readers of chat and VQA sets: every published oddity becomes one row, or a named reason; nothing is swapped."""

import json
import os
from collections import Counter
from pathlib import Path

import published_sets
import pytest
from drawn_images import encoded, pixels

from medalign.data import dialogue, formats, rows
from medalign.errors import CorpusError


def items_of(format, source, **options):
    complete = formats.complete(format, options)
    return list(formats.reader(format).list_items(source, complete))


def row_of(format, item):
    recipe = rows.Recipe(
        format=format,
        options=formats.complete(format, {}),
        max_side=64,
        max_pixels=4_000_000,
        encoding="auto",
        salt="",
    )
    return rows.make(item, recipe)


def test_llava_med_takes_both_spellings_numbers_and_every_place_of_the_mark(tmp_path):
    source, records = published_sets.llava_med(tmp_path)
    items = items_of("llava-med", source)
    made = [row_of("llava-med", item) for item in items]
    assert [reason for _, reason in made] == [""] * len(records)
    for n, (row, _) in enumerate(made):
        said = row["conversations"]
        assert [turn["from"] for turn in said] == ["human", "gpt"] * 2
        assert said[0]["value"].count("<image>") == 1
        assert said[0]["value"].startswith("<image>\n") == (n % 3 != 1)
        assert said[1]["value"] == ("3" if n == 3 else f"Figure {n}.")
        assert (row["conversations_long"] is not None) == (n == 0)
    long = made[0][0]["conversations_long"]
    assert [turn["value"] for turn in long[1::2]] == ["At length: Figure 0.", "At length: No more."]
    assert [turn for turn in long[::2]] == made[0][0]["conversations"][::2]


def test_figures_of_an_article_can_be_one_group(tmp_path):
    source, _ = published_sets.llava_med(tmp_path)
    assert len({item.group for item in items_of("llava-med", source)}) == 8
    assert {item.group for item in items_of("llava-med", source, group_by="article")} == set("0123")
    with pytest.raises(CorpusError, match="group_by must be image or article"):
        items_of("llava-med", source, group_by="patient")


def test_a_missing_picture_is_a_reason_and_no_other_record_takes_its_place(tmp_path):
    source, records = published_sets.llava_med(tmp_path)
    (tmp_path / "images" / "1_F0.jpg").unlink()
    made = [row_of("llava-med", item) for item in items_of("llava-med", source)]
    assert [reason for _, reason in made] == ["", "", "file not found", "", "", "", "", ""]
    assert [row["conversations"][1]["value"] for row, _ in made if row] == [
        "3" if n == 3 else f"Figure {n}." for n in range(len(records)) if n != 2
    ]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "a list of 2 to 64 turns"),
        ([("gpt", "x"), ("human", "y")], "human and gpt in turn"),
        ([("human", "x"), ("gpt", "y"), ("human", "z")], "end with gpt"),
        ([("human", "x"), ("robot", "y")], "from human or gpt"),
        ([("human", "<image> <image>"), ("gpt", "y")], "one <image>, in its first turn"),
        ([("human", "x"), ("gpt", "<image>")], "one <image>, in its first turn"),
        ([("human", "x"), ("gpt", None)], "a NoneType where text belongs"),
        ([("human", "x"), ("gpt", "half \ud800 a pair")], "text that is not valid"),
        ([("human", "x"), ("gpt", "y" * 65_537)], "text longer than 65536"),
    ],
)
def test_a_conversation_that_is_none_gives_a_reason(said, reason):
    with pytest.raises(dialogue.DialogueReject, match=reason):
        dialogue.turns([{"from": who, "value": what} for who, what in said])


def test_an_extended_conversation_must_have_the_same_turns():
    short = dialogue.ask("Q?", "A.")
    words = {"conversations": short, "conversations_long": [*short, *short]}
    with pytest.raises(dialogue.DialogueReject, match="one <image>|another number of turns"):
        dialogue.columns(words)
    plain = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    with pytest.raises(dialogue.DialogueReject, match="another number of turns"):
        dialogue.columns({"conversations": plain, "conversations_long": plain * 2})


def test_vqa_rad_strips_blanks_takes_numbers_and_states_the_options_of_yes_and_no(tmp_path):
    items = items_of("vqa-rad", published_sets.vqa_rad(tmp_path))
    assert Counter(item.split for item in items) == {"train": 17, "test": 7}
    row, reason = row_of("vqa-rad", items[3])
    assert reason == ""
    assert (row["question_id"], row["question"], row["answer"], row["answer_type"], row["choices"]) == (
        "3",
        "Is it enlarged?",
        "Yes",
        "CLOSED",
        ["Yes", "No"],
    )
    assert row["conversations"] == [
        {"from": "human", "value": 'Is it enlarged? (Answer with either "Yes" or "No").\n<image>'},
        {"from": "gpt", "value": "Yes"},
    ]
    number, _ = row_of("vqa-rad", items[5])
    assert (number["answer"], number["answer_type"], number["choices"]) == ("4", "OPEN", None)
    assert number["conversations"][0]["value"] == "Is part 5 enlarged?\n<image>"
    silent = items_of("vqa-rad", str(tmp_path / "vqa_rad.json"), state_options=False)
    assert silent[3].words["conversations"][0]["value"] == "Is it enlarged?\n<image>"


def test_the_grouped_split_leaves_splits_open_and_drops_a_repeated_question_of_an_image(tmp_path):
    source = published_sets.vqa_rad(tmp_path)
    items = items_of("vqa-rad", source, split="grouped")
    assert {item.split for item in items} == {None}
    assert [item.key for item in items] == [str(n) for n in range(24) if n != 11]
    with pytest.raises(CorpusError, match="split must be standard or grouped"):
        items_of("vqa-rad", source, split="random")


def test_slake_keeps_one_language_and_the_three_splits(tmp_path):
    source = published_sets.slake(tmp_path)
    items = items_of("slake", source)
    assert Counter(item.split for item in items) == {"train": 3, "val": 3, "test": 3}
    assert len(items_of("slake", source, language="all")) == 12
    row, _ = row_of("slake", items[1])
    assert (row["answer_type"], row["question_type"], row["choices"]) == ("CLOSED", "Organ", ["Yes", "No"])


def test_path_vqa_names_questions_by_their_own_id_and_reads_no_pickle(tmp_path):
    source = published_sets.path_vqa(tmp_path)
    items = items_of("path-vqa", source)
    assert Counter(item.split for item in items) == {"train": 3, "test": 3}
    assert len({item.key for item in items}) == 6
    row, _ = row_of("path-vqa", items[0])
    assert (row["answer"], row["answer_type"]) == ("a cell", "OPEN")
    assert row_of("path-vqa", items[1])[0]["answer_type"] == "CLOSED"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train_vqa.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(CorpusError, match="pickles are not read"):
        items_of("path-vqa", str(tmp_path / "old"))


def test_multiple_choice_states_all_options(tmp_path):
    source = published_sets.multiple_choice(tmp_path)
    items = items_of("multiple-choice", source)
    row, reason = row_of("multiple-choice", items[1])
    assert reason == ""
    assert row["choices"] == ["platelet", "basophil", "monocyte"]
    assert row["question_type"] == "BloodMNIST"
    assert 'either "platelet" or "basophil" or "monocyte"' in row["conversations"][0]["value"]
    assert {item.split for item in items} == {"test"}
    (tmp_path / "BloodMNIST.json").write_text(json.dumps([{"question": "?", "gt_answer": "x", "option_A": "y"}]))
    with pytest.raises(CorpusError, match="fewer than two options"):
        items_of("multiple-choice", source)


@pytest.mark.parametrize("second", [False, True])
def test_roco_makes_a_caption_the_answer_to_an_instruction(tmp_path, second):
    items = items_of("roco", published_sets.roco(tmp_path, second=second))
    assert [item.split for item in items] == ["train", "val", "test"]
    row, reason = row_of("roco", items[0])
    assert reason == ""
    assert row["caption"] == "A scan, train."
    assert row["conversations"][1] == {"from": "gpt", "value": "A scan, train."}


def test_files_that_are_no_such_set_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for format, source, message in (
        ("llava-med", tmp_path / "none.json", "not found"),
        ("llava-med", tmp_path / "x.json", "not JSON"),
        ("slake", tmp_path, "none of SLAKE's files"),
        ("path-vqa", tmp_path, "none of train_vqa.json"),
        ("roco", tmp_path, "neither SPLIT/radiology"),
    ):
        with pytest.raises(CorpusError, match=message):
            items_of(format, str(source))
    (tmp_path / "x.json").write_text(json.dumps([{"image": "../secret.png", "conversations": dialogue.ask("q", "a")}]))
    with pytest.raises(CorpusError, match=r"record 0: pictures are named relative"):
        items_of("llava-med", str(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text(json.dumps([{"qid": 1, "phrase_type": "other"}]))
    with pytest.raises(CorpusError, match="not VQA-RAD"):
        items_of("vqa-rad", str(tmp_path / "x.json"))


def test_an_image_row_has_no_words(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(0)))
    (item,) = items_of("image-folder", str(tmp_path))
    row, _ = row_of("image-folder", item)
    assert not set(row) & set(dialogue.COLUMNS.names)
    assert "words" not in json.loads(item.dumps())


@pytest.mark.skipif("MEDALIGN_VQA_RAD" not in os.environ, reason="MEDALIGN_VQA_RAD names no VQA-RAD JSON file")
def test_vqa_rad_itself_has_the_published_counts():
    source = str(Path(os.environ["MEDALIGN_VQA_RAD"]).resolve())
    items = items_of("vqa-rad", source)
    assert Counter(item.split for item in items) == {"train": 1797, "test": 451}
    images = {split: {item.group for item in items if item.split == split} for split in ("train", "test")}
    assert (len(images["test"]), len(images["train"] & images["test"])) == (203, 202)
    kinds = Counter(item.words["answer_type"] for item in items if item.split == "test")
    assert kinds == {"OPEN": 179, "CLOSED": 272}
    assert len(items_of("vqa-rad", source, split="grouped")) == 2244
    assert all(row_of("vqa-rad", item)[1] == "" for item in items[::50])
