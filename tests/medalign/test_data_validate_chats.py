"""Validating conversations against a tokenizer: lengths are those of training, what cannot be learnt is named by id."""

import prepared_here
import published_sets
import pytest
from drawn_images import write_folder
from small_tokenizers import CHATML, byte_level

from medalign.cli import main
from medalign.data import chat, job
from medalign.data.prepare import prepare
from medalign.data.reader import read_rows
from medalign.data.validate_chats import open_tokenizer, validate_chats
from medalign.errors import CorpusError, UserError


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "run", prepared_here.run_here)
    prepare(published_sets.vqa_rad(tmp_path / "set"), format="vqa-rad", out=str(tmp_path / "c"))
    return str(tmp_path / "c")


@pytest.mark.parametrize("style", ["template", "v0"])
def test_lengths_are_those_of_training_with_the_images_tokens(corpus, style):
    tokenizer = byte_level()
    found = validate_chats(corpus, tokenizer, style=style, image_tokens=16)
    assert {split: each.samples for split, each in found.items()} == {"train": 17, "test": 7}
    rows = [row for batch in read_rows(corpus, "test", ("conversations",)) for row in batch.to_pylist()]
    lengths = []
    for row in rows:
        turns = row["conversations"]
        written = chat.write_v0(turns) if style == "v0" else chat.write_template(turns, tokenizer)
        image = "<image>" * 16  # one token by now
        lengths.append(len(chat.tokenise(written, tokenizer, max_length=2048, image=image).ids))
    assert found["test"].longest == max(lengths)
    assert found["test"].cut == 0


def test_what_a_limit_leaves_nothing_of_is_named_by_its_id(corpus):
    ids = {row["id"] for batch in read_rows(corpus, "test", ("id",)) for row in batch.to_pylist()}
    with pytest.raises(CorpusError, match="7 of 7 samples cannot be learnt") as caught:
        validate_chats(corpus, byte_level(), max_length=20, image_tokens=16)
    assert all(name in str(caught.value) for name in ids)


def test_corpora_without_conversations_and_places_without_a_tokenizer_are_refused(corpus, tmp_path):
    source = str(write_folder(tmp_path / "images", per_class=2))
    prepare(source, format="image-folder", out=str(tmp_path / "i"), fractions={})
    with pytest.raises(CorpusError, match="without conversations"):
        validate_chats(str(tmp_path / "i"), byte_level())
    with pytest.raises(UserError, match="no tokenizer can be opened here"):
        open_tokenizer(str(tmp_path / "images"))


def test_the_command_prints_a_line_for_each_split(corpus, tmp_path, capsys):
    byte_level(CHATML).save_pretrained(tmp_path / "tokenizer")
    words = ["data", "validate", corpus, "--tokenizer", str(tmp_path / "tokenizer"), "--image-tokens", "16"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "7 groups are in test and train" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line.split()[:1] in (["train"], ["test"])] == [
        ["train", "17"],
        ["test", "7"],
    ]
