"""Extended answers: what is unfaithful, against an endpoint that misbehaves, merged 1:1, and reviewed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import drawn_chats
import pytest
from chat_endpoint import ChatEndpoint, chat, refusal

from medalign.cli import main
from medalign.data import manifest
from medalign.data.reader import read_rows
from medalign.data.validate import validate
from medalign.errors import CorpusError, EndpointError, UserError
from medalign.extended_answers.faithfulness import violations
from medalign.extended_answers.generate import BLOCK, extend
from medalign.extended_answers.instruction import Wording, most_words, read_revision
from medalign.extended_answers.review import read_decisions, write_page
from medalign.language_models import Endpoint


def asked_answer(request):
    """Return the answer that a request is about."""
    return re.search(r"Answer: (.*)\nAt most", request["messages"][3]["content"])[1]


def write_well(request):
    """Return the answer with words around it, as JSON."""
    return revision(f"The picture shows {asked_answer(request)} clearly.")


def revision(text):
    return chat(json.dumps({"explanation": "short", "revision": text}))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    endpoint = ChatEndpoint(otherwise=write_well)
    yield endpoint
    endpoint.close()


@pytest.fixture
def corpus(tmp_path):
    return drawn_chats.write_corpus(tmp_path / "corpus", {"train": 20, "val": 4, "test": 4})


def run(server, corpus, out, **changes):
    limits = {"tries": 3, "seconds": 5.0, "try_seconds": 0.5, "first_wait_seconds": 0.01}
    endpoint = Endpoint(url=server.url, model="small", **limits)
    return extend(corpus, endpoint, out=str(out), **{"parallel": 1, **changes})


def rows_of(uri, split="train"):
    columns = ("id", "conversations", "conversations_long")
    return [row for batch in read_rows(str(uri), split, columns) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("original", "extended", "question", "wrong"),
    [
        ("Yes", "Yes, the heart is enlarged.", "Is the heart enlarged?", ()),
        ("Two nodules", "There are 2 nodules to be seen.", "", ()),
        ("Two nodules", "There are three nodules.", "", ("adds the number '3'", "loses the number '2'")),
        ("3.5 cm", "It is about 3 cm wide.", "", ("adds the number '3'", "loses the number '3.5'")),
        ("left lung", "The lung on the right side.", "", ("adds the side 'right'", "loses the side 'left'")),
        ("the lung", "The left lung.", "", ("adds the side 'left'",)),
        ("a left-sided effusion", "An effusion, on the left.", "", ()),
        ("No", "The image looks healthy.", "Is there a fracture?", ("loses the negation",)),
        ("Yes", "It isn't visible.", "", ("adds a negation",)),
        ("pneumonia", "Pneumonia with an effusion.", "", ("adds the entity 'effusion'",)),
        ("appendicitis", "An inflamed organ.", "", ("loses the entity 'appendicitis'",)),
        ("CT", "This is an MRI.", "", ("adds the abbreviation 'MRI'",)),
        ("Yes", "Yes, this is a CT of the chest.", "Is this a CT of the chest?", ()),
    ],
)
def test_what_an_extended_answer_may_not_add_or_lose(original, extended, question, wrong):
    assert violations(original, extended, question=question) == wrong


def test_an_answer_may_have_twenty_words_if_short_and_twice_its_own_if_long():
    assert most_words("Yes") == 20
    assert most_words("a b c") == 20
    assert most_words(" ".join("abcdefghijklmno")) == 30
    long = json.dumps({"explanation": "", "revision": "word " * 21})
    with pytest.raises(ValueError, match="21 words, at most 20"):
        read_revision(long, question="?", answer="Yes")


def test_every_training_answer_is_extended_and_nothing_else_changes(server, corpus, tmp_path):
    found = run(server, corpus, tmp_path / "out", parallel=4)
    assert (found.rows, found.extended, found.answers, found.asked) == (20, 20, 20, 20)
    assert found.quarantined == {}
    # of the drawn corpus itself the hashes of the pixels are made up
    assert validate(str(tmp_path / "out")).problems == validate(corpus).problems
    before, after = rows_of(corpus), rows_of(tmp_path / "out")
    for old, new in zip(before, after, strict=True):
        assert new["conversations"] == old["conversations"]
        question, answer = (turn["value"] for turn in old["conversations"])
        assert [turn["value"] for turn in new["conversations_long"]] == [
            question,
            f"The picture shows {answer} clearly.",
        ]
    for split in ("val", "test"):  # only the train split is extended
        assert rows_of(tmp_path / "out", split) == rows_of(corpus, split)
    lines = [json.loads(line) for line in (tmp_path / "out" / "extended_answers.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert {line["model"] for line in lines} == {"small"}
    assert {line["prompt_sha256"] for line in lines} == {Wording().prompt_sha256}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"]) and len(line["source_sha256"]) == 64 for line in lines)
    source = manifest.read(str(tmp_path / "out")).source
    assert (source["extended_by"], source["extended_from"]) == ("small", manifest.read(corpus).fingerprint)


def test_the_same_call_again_asks_nothing_and_gives_the_same_bytes(server, corpus, tmp_path):
    run(server, corpus, tmp_path / "out")
    bytes_before = {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()}
    again = run(server, corpus, tmp_path / "out")
    assert (again.asked, again.extended, len(server.requests)) == (0, 20, 20)
    assert {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()} == bytes_before


def test_an_endpoint_that_misbehaves_is_asked_again_within_bounds(server, corpus, tmp_path):
    server.plan([refusal(429), "cut", chat("Sure! {"), revision(""), write_well])
    found = run(server, corpus, tmp_path / "out", attempts=3)
    assert (found.extended, found.quarantined) == (20, {})
    complaint = server.requests[4]["messages"][-1]["content"]
    assert "the revision is empty" in complaint


def test_an_answer_that_stays_unfaithful_is_quarantined_and_its_row_has_no_extension(server, corpus, tmp_path):
    server.plan([revision("7 stripes on the left.")] * 2)
    found = run(server, corpus, tmp_path / "out", attempts=2)
    assert (found.extended, found.answers, found.quarantined) == (19, 19, {"unfaithful": 1})
    assert found.unfaithful == pytest.approx(2 / 21)
    rows = rows_of(tmp_path / "out")
    assert rows[0]["conversations_long"] is None
    assert rows[0]["conversations"] == rows_of(corpus)[0]["conversations"]
    line = json.loads((tmp_path / "out" / "extended_answers.jsonl").read_text().splitlines()[0])
    assert "adds the number '7'" in line["problem"]
    assert "left" in line["last"]


def test_an_endpoint_that_refuses_ends_the_job_and_finished_blocks_are_kept(server, corpus, tmp_path):
    server.plan([write_well] * BLOCK + [refusal(401)])
    with pytest.raises(EndpointError, match="401"):
        run(server, corpus, tmp_path / "out")
    assert not manifest.exists(str(tmp_path / "out"))
    assert run(server, corpus, tmp_path / "out").asked == 20 - BLOCK


def test_a_corpus_that_may_not_leave_is_not_sent_to_another_machine(corpus, tmp_path):
    endpoint = Endpoint(url="https://api.example.org/v1", model="large")
    with pytest.raises(UserError, match="--external-ok"):
        extend(corpus, endpoint, out=str(tmp_path / "out"))


def test_nothing_but_an_extension_of_the_same_corpus_is_replaced(server, corpus, tmp_path):
    other = drawn_chats.write_corpus(tmp_path / "other", {"train": 4})
    for place, what in ((corpus, "the corpus itself"), (other, "another corpus")):
        with pytest.raises(CorpusError, match=what):
            run(server, corpus, place)
    assert server.requests == []


def test_a_review_shows_answers_with_images_and_what_it_rejects_is_left_out(server, corpus, tmp_path):
    run(server, corpus, tmp_path / "out")
    assert write_page(str(tmp_path / "out"), str(tmp_path / "review.html"), samples=5) == 5
    page = (tmp_path / "review.html").read_text()
    assert page.count("<article") == page.count("data:image/jpeg;base64,") == 5
    assert "The picture shows" in page
    name = re.search(r'data-id="([^"]+)"', page)[1]
    decisions = tmp_path / "decisions.json"
    decisions.write_text(json.dumps([{"id": name, "turn": 0, "verdict": "reject", "reviewer": "A. Reader"}]))
    assert read_decisions(str(decisions)) == ((name, 0),)
    found = run(server, corpus, tmp_path / "out", rejected=read_decisions(str(decisions)))
    assert (found.extended, found.asked, found.quarantined) == (19, 0, {"rejected in review": 1})
    assert [row["id"] for row in rows_of(tmp_path / "out") if row["conversations_long"] is None] == [name]


def test_decisions_that_are_none_are_refused(tmp_path):
    (tmp_path / "d.json").write_text('[{"id": "a", "turn": 0, "verdict": "maybe"}]')
    with pytest.raises(UserError, match="not decisions"):
        read_decisions(str(tmp_path / "d.json"))


@pytest.mark.chaos
def test_a_job_that_is_killed_between_answers_and_their_file_goes_on(server, corpus, tmp_path):
    out = tmp_path / "out"
    words = ["data", "extend", corpus, "--out", str(out), "--endpoint", server.url, "--model", "small"]
    environment = {**os.environ, "MEDALIGN_FAULT": "extended.before_block_is_stored:2"}
    command = [sys.executable, "-m", "medalign.cli", *words]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode != 0
    assert len(list(Path(f"{out}.answers").iterdir())) == 1
    assert run(server, corpus, out).asked == 20 - BLOCK


def test_the_commands_say_what_they_did(server, corpus, tmp_path, capsys):
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as done:
        main(["data", "extend", corpus, "--out", out, "--endpoint", server.url, "--model", "small"])
    assert done.value.code in (0, None)
    assert "20 of 20 training rows have extended answers" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["data", "review", out, "--out", str(tmp_path / "page.html"), "--samples", "3"])
    assert done.value.code in (0, None)
    assert "3 answers in" in capsys.readouterr().out
