"""Writing a bank against an endpoint that misbehaves: nothing is asked twice, useless answers are set aside."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from chat_endpoint import ChatEndpoint, chat, described_class, refusal, write_well

from medalign import banks
from medalign.banks.generate import generate
from medalign.banks.instruction import Request
from medalign.errors import BankError, EndpointError
from medalign.language_models import Endpoint

NAMES = [f"organ_{letter}" for letter in "abcdefgh"]
WANTED = Request(name="organs", classes={name: name.replace("_", " ") for name in NAMES}, template="a scan of {}.")
BAD = chat('{"descriptions": ["Only one."]}')
TWICE = chat(json.dumps({"descriptions": ["Same.", "Same.", "A.", "B."]}))


@pytest.fixture
def server(monkeypatch):
    """An endpoint that writes well unless something else is planned."""
    monkeypatch.setenv("no_proxy", "*")
    endpoint = ChatEndpoint()
    yield endpoint
    endpoint.close()


def write(server, out, *, request=WANTED, **changes):
    """Write the bank, impatiently; one class after the other, so that replies are taken in the classes' order."""
    limits = {"tries": 6, "seconds": 5.0, "try_seconds": 0.5, "first_wait_seconds": 0.01}
    endpoint = Endpoint(url=server.url, model="small", **limits)
    return generate(request, endpoint, out=str(out), **{"parallel": 1, **changes})


def asked(server):
    """Return how often each class was asked about."""
    return Counter(described_class(request) for request in server.requests)


def test_a_bank_has_every_class_in_order_with_its_origin(server, tmp_path):
    seen = []
    result = write(server, tmp_path / "organs.json", parallel=4, progress=lambda *step: seen.append(step))
    assert banks.read(str(tmp_path / "organs.json")) == result.bank
    assert list(result.bank.classes) == NAMES
    assert result.bank.classes["organ_a"][0] == "Trait 0 of organ a is seen."
    assert {len(texts) for texts in result.bank.classes.values()} == {4}
    assert result.bank.display_names["organ_a"] == "organ a"
    origin = result.bank.provenance
    assert (origin.author, origin.kind, origin.reviewer) == ("small", "model", None)
    assert origin.prompt_sha256 == WANTED.prompt_sha256
    assert banks.check(result.bank).problems == ()
    assert [step[:2] for step in seen] == [(number, 8) for number in range(1, 9)]
    assert {step[3] for step in seen} == {""}


def test_the_same_bank_again_asks_nothing_and_keeps_what_a_reviewer_corrected(server, tmp_path):
    out = tmp_path / "organs.json"
    write(server, out)
    corrected = out.read_text().replace("Trait 0 of organ a is seen.", "A corrected trait.")
    out.write_text(corrected)
    result = write(server, out)
    assert result.requests == 0
    assert out.read_text() == corrected
    assert len(server.requests) == 8


def test_another_bank_is_not_replaced_unless_it_may_be(server, tmp_path):
    out = tmp_path / "organs.json"
    write(server, out)
    other = replace(WANTED, per_class=2)
    with pytest.raises(BankError, match=r"another bank is here \('organs', by small\)"):
        write(server, out, request=other)
    assert write(server, out, request=other, overwrite=True).requests == 8
    assert len(banks.read(str(out)).classes["organ_a"]) == 2


def test_an_endpoint_that_misbehaves_in_every_way_still_gives_a_whole_bank(server, tmp_path):
    fence = chat('```json\n{"descriptions": ["One.", "Two.", "Three.", "Four."]}\n```')
    server.plan([refusal(429), refusal(500), "hang", "drip", "cut", (200, "not json", {}), BAD, TWICE, write_well])
    server.plan([chat("Sorry, here it is: ..."), fence, chat("half of", reason="length"), write_well])
    result = write(server, tmp_path / "organs.json", attempts=4)
    assert result.quarantined == {}
    assert list(result.bank.classes) == NAMES
    assert result.bank.classes["organ_b"] == ("One.", "Two.", "Three.", "Four.")
    first = json.loads(next((tmp_path / "organs.json.answers").glob("organ_a-*.json")).read_text())
    assert [attempt["problem"] for attempt in first["attempts"]] == [
        "not the envelope of a chat completion",
        "1 descriptions where 4 were asked for",
        "description 2 is there twice",
    ]
    assert server.requests[7]["messages"][-1]["content"].startswith("That answer cannot be used: 1 descriptions")


def test_a_class_without_a_useful_answer_is_quarantined_and_the_others_go_on(server, tmp_path):
    out = tmp_path / "organs.json"
    server.otherwise = lambda request: BAD if described_class(request) == "organ c" else write_well(request)
    result = write(server, out, parallel=3)
    assert result.bank is None
    assert not out.exists()
    assert result.quarantined == {"organ_c": "1 descriptions where 4 were asked for"}
    assert asked(server) == {**{name.replace("_", " "): 1 for name in NAMES}, "organ c": 3}

    assert write(server, out).requests == 0  # neither the seven nor the eighth is asked about again
    server.otherwise = write_well
    again = write(server, out, ask_again=True)
    assert again.requests == 1
    assert list(again.bank.classes) == NAMES


def test_a_hostile_answer_is_stored_whole_enough_and_its_reason_stays_short(server, tmp_path):
    key = "\ud800\x1b[31m" + "k" * 9000
    server.plan([chat(json.dumps({key: []}))] * 3)
    result = write(server, tmp_path / "organs.json")
    assert len(result.quarantined["organ_a"]) <= 200
    assert result.quarantined["organ_a"].isprintable()
    stored = next((tmp_path / "organs.json.answers").glob("organ_a-*.json"))
    assert stored.stat().st_size < 60_000
    assert write(server, tmp_path / "organs.json").quarantined == result.quarantined


def test_a_rejected_question_is_reported_and_not_stored(server, tmp_path):
    server.plan([refusal(400, "response_format is not supported")])
    result = write(server, tmp_path / "organs.json")
    assert result.quarantined == {
        "organ_a": "the endpoint rejects the question (HTTP 400: response_format is not supported)"
    }
    assert write(server, tmp_path / "organs.json").requests == 1


@pytest.mark.parametrize("bad", [refusal(401), refusal(503)])
def test_an_endpoint_that_refuses_ends_the_job_and_what_was_answered_is_kept(server, tmp_path, bad):
    server.plan([write_well, write_well, *[bad] * 6])
    with pytest.raises(EndpointError):
        write(server, tmp_path / "organs.json")
    before = len(server.requests)
    server._planned.clear()
    assert write(server, tmp_path / "organs.json").requests == 6
    assert len(server.requests) == before + 6


def test_another_model_or_wording_is_another_question(server, tmp_path):
    write(server, tmp_path / "organs.json")
    (tmp_path / "organs.json").unlink()
    assert write(server, tmp_path / "organs.json").requests == 0
    (tmp_path / "organs.json").unlink()
    assert write(server, tmp_path / "organs.json", request=replace(WANTED, about="drawings")).requests == 8


def test_a_stored_answer_that_is_damaged_is_named(server, tmp_path):
    write(server, tmp_path / "organs.json")
    (tmp_path / "organs.json").unlink()
    next((tmp_path / "organs.json.answers").glob("organ_a-*.json")).write_text("{")
    with pytest.raises(BankError, match=r"organ_a-[0-9a-f]{16}\.json: not an answer that was stored here"):
        write(server, tmp_path / "organs.json")


def test_classes_are_asked_about_at_once(server, tmp_path):
    server.delay = 0.2
    began = time.monotonic()
    write(server, tmp_path / "organs.json", parallel=8)
    assert time.monotonic() - began < 1.0
    assert threading.active_count() < 40


@pytest.mark.parametrize(("point", "again"), [("bank.before_answer_is_stored", 1), ("bank.after_answer_is_stored", 0)])
def test_a_killed_job_goes_on_and_asks_again_only_what_it_had_not_stored(server, tmp_path, point, again):
    out, names = tmp_path / "organs.json", tmp_path / "classes.txt"
    names.write_text("\n".join(NAMES))
    words = ["bank", "generate", "--classes", str(names), "--out", str(out), "--endpoint", server.url]
    command = [sys.executable, "-m", "medalign.cli", *words, "--model", "small", "--parallel", "1"]
    dead = {**os.environ, "MEDALIGN_FAULT": f"{point}:4"}
    assert subprocess.run(command, env=dead, capture_output=True, timeout=60).returncode == 137
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 8 + again
    assert asked(server) == {**{name.replace("_", " "): 1 for name in NAMES}, "organ d": 1 + again}
    assert list(banks.read(str(out)).classes) == NAMES
