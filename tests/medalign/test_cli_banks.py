"""`medalign bank`: what it prints and with which code it exits, from a corpus to a bank that serves it."""

import json
import os
import pty
import subprocess
import sys

import pytest
from chat_endpoint import ChatEndpoint, chat, refusal
from striped_corpus import write_corpus

from medalign import banks
from medalign.cli import main


def call(*words):
    """Run the program and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of stripes."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 64})


@pytest.fixture
def server(monkeypatch):
    """An endpoint that writes well."""
    monkeypatch.setenv("no_proxy", "*")
    endpoint = ChatEndpoint()
    yield endpoint
    endpoint.close()


def test_a_bank_is_generated_from_a_corpus_checked_against_it_and_shown(corpus, server, tmp_path, capsys):
    out = tmp_path / "stripes.json"
    words = ["bank", "generate", corpus, "--out", out, "--endpoint", server.url, "--model", "small"]
    assert call(*words, "--per-class", "2", "--about", "drawings of stripes") == 0
    printed, progress = capsys.readouterr()
    count = len(banks.read(str(out)).classes)
    assert printed == f"{count} classes, {2 * count} sentences, {count} answers asked for: {out}\n"
    assert progress.count(": answered\n") == count
    assert banks.read(str(out)).name == "stripes"
    assert "The images are drawings of stripes." in server.requests[0]["messages"][3]["content"]

    assert call("bank", "validate", out, "--corpus", corpus) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{count} classes, {2 * count} sentences: valid: {out}"
    assert call("bank", "show", out) == 0
    printed = capsys.readouterr().out
    assert "  - Trait 0 of " in printed
    assert "reviewer       nobody" in printed


def test_a_quarantined_class_ends_with_1_and_says_how_to_go_on(server, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("liver\nkidney = left kidney\n")
    server.plan([chat("no json")] * 2)
    words = ["bank", "generate", "--classes", tmp_path / "classes.txt", "--out", tmp_path / "b.json"]
    words += ["--endpoint", server.url, "--model", "small", "--parallel", "1", "--attempts", "2"]
    assert call(*words) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "- liver: not JSON (Expecting value at character 0)"
    assert out[1].startswith("1 classes have no answer that can be used, so no bank is written (3 answers asked for)")
    assert not (tmp_path / "b.json").exists()
    assert call(*words, "--ask-again") == 0
    assert banks.read(str(tmp_path / "b.json")).display("kidney") == "left kidney"


def test_a_bank_that_does_not_fit_a_corpus_ends_with_1_and_a_line_each(corpus, capsys):
    assert call("bank", "validate", "ready:bccd_cells", "--corpus", corpus) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("- the corpus's class ")
    assert out[-1].endswith("1 problems: ready:bccd_cells")


def test_ready_banks_are_listed_and_valid(capsys):
    assert call("bank", "list") == 0
    names = capsys.readouterr().out.split()
    assert names == [f"ready:{name}" for name in banks.ready_names()]
    assert [call("bank", "validate", name) for name in names] == [0] * len(names)


def test_sentences_are_counted_by_a_tokenizer_s_folder(tmp_path, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    assert call("bank", "validate", "ready:bccd_cells", "--tokenizer", tmp_path, "--most-tokens", "16") == 0
    assert call("bank", "validate", "ready:bccd_cells", "--tokenizer", tmp_path, "--most-tokens", "12") == 1
    assert "- class 'RBC': its template has 13 tokens, the text tower reads 12\n" in capsys.readouterr().out
    assert call("bank", "validate", "ready:bccd_cells", "--tokenizer", tmp_path) == 2
    assert "the tokenizer knows no limit" in capsys.readouterr().err


GENERATE = ["bank", "generate", "--classes", "classes.txt", "--out", "b.json", "--model", "small"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bank", "show", "none.json"], "none.json: no bank here"),
        (["bank", "show", "ready:none"], "ready:none: no such bank; ready are bccd_cells"),
        (["bank", "validate", "classes.txt"], "classes.txt: not JSON"),
        (["bank", "validate", "ready:bccd_cells", "--corpus", "."], "no corpus here"),
        (["bank", "validate", "ready:bccd_cells", "--most-tokens", "77"], "--most-tokens needs --tokenizer"),
        (["bank", "validate", "ready:bccd_cells", "--tokenizer", "none"], "none: no folder here"),
        (["bank", "validate", "ready:bccd_cells", "--tokenizer", "."], ".: not a tokenizer ("),
        ([*GENERATE], "Missing option '--endpoint'"),
        ([*GENERATE, "--endpoint", "localhost:8000"], "the endpoint's url must be http(s)://host"),
        ([*GENERATE, "--endpoint", "http://me:secret@host/v1"], "the endpoint's url must hold no key"),
        ([*GENERATE, "--endpoint", "http://host/v1", "--per-class", "0"], "sentences per class must be in [1, 100]"),
        ([*GENERATE, "--endpoint", "http://host/v1", "--template", "x"], "the template must hold one {}"),
        ([*GENERATE, "--endpoint", "http://host/v1", "--tries", "0"], "the endpoint's tries must be >= 1"),
        ([*GENERATE, "--endpoint", "http://host/v1", "--parallel", "0"], "parallel and attempts must be >= 1"),
        ([*GENERATE, "corpus", "--endpoint", "http://host/v1"], "give a CORPUS or --classes FILE, one of them"),
        ([*GENERATE, "--endpoint", "http://127.0.0.1:9/v1", "--tries", "1"], "Connection refused; given up after 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "classes.txt").write_text("liver\nkidney\n")
    assert call(*words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert "secret" not in err
    assert not (tmp_path / "b.json").exists()


def test_a_refusing_endpoint_s_line_holds_no_key(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "canary-0123456789")
    (tmp_path / "classes.txt").write_text("liver\n")
    server.plan([refusal(401, "Incorrect key: canary-0123456789")])
    assert call(*GENERATE, "--endpoint", server.url, "--key-variable", "MY_KEY") == 2
    assert server.headers[0]["Authorization"] == "Bearer canary-0123456789"
    err = capsys.readouterr().err
    assert "the key in MY_KEY is not accepted" in err
    assert "canary" not in err
    assert "canary" not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_the_job_does_what_the_command_does(server, tmp_path):
    (tmp_path / "classes.txt").write_text("liver\n")
    job = os.path.join(os.path.dirname(__file__), "..", "..", "jobs", "generate_bank.py")
    words = [*GENERATE[2:], "--endpoint", server.url]
    subprocess.run([sys.executable, job, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert list(json.loads((tmp_path / "b.json").read_text())["classes"]) == ["liver"]


def test_a_terminal_gets_a_bar_and_the_result(server, tmp_path):
    (tmp_path / "classes.txt").write_text("liver\nkidney\n")
    server.delay = 0.3
    screen, side = pty.openpty()
    command = [sys.executable, "-m", "medalign.cli", *GENERATE, "--endpoint", server.url, "--parallel", "1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=side, stderr=side, env=environment) as program:
        os.close(side)
        shown = b""
        while chunk := _read(screen):
            shown += chunk
        assert program.wait(30) == 0
    os.close(screen)
    text = shown.decode()
    assert "asking" in text
    assert "2 classes, 8 sentences, 2 answers asked for: b.json" in text


def _read(screen):
    try:
        return os.read(screen, 4096)
    except OSError:  # EIO: the program has closed its side
        return b""
