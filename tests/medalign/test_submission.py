"""Submitting without a cluster: what is refused, what travels, and how a log is followed over breaks."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from medalign import cluster
from medalign.errors import MedAlignError, UserError
from medalign.submission import log, submit
from medalign.submission.package import check_size, stage_code, stage_folder

WORDS = ("run.uri=s3://b/run", "data.corpus=s3://b/corpus")


def test_places_that_other_machines_do_not_know_are_refused_before_anything_is_sent():
    for words, said in (
        (["run.uri=runs/first", "data.corpus=s3://b/c"], "run.uri=runs/first: the nodes do not know this folder"),
        (["run.uri=s3://b/r", "data.corpus=corpora/mine"], "data.corpus=corpora/mine: the nodes do not know"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            submit("lvm_med/tiny_cpu", words, address="http://127.0.0.1:1")


def test_an_address_that_is_none_or_does_not_answer_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UserError, match="must be that of the dashboard"):
        submit("lvm_med/tiny_cpu", WORDS, address="ray://127.0.0.1:10001")
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        submit("lvm_med/tiny_cpu", WORDS, address="http://127.0.0.1:1")


def test_the_code_travels_as_a_wheel_would_hold_it(tmp_path):
    folders = stage_code(tmp_path)
    assert [Path(folder).name for folder in folders] == ["medalign_core", "medalign"]
    assert (tmp_path / "medalign" / "recipes" / "lvm_med" / "tiny_cpu.yaml").is_file()
    assert (tmp_path / "medalign" / "cli" / "__main__.py").is_file()
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_recipe_s_file_travels_alone_or_lies_in_the_user_s_folder(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text("run: {}\n")
    name, folder = stage_folder(str(own / "mine.yaml"), None, tmp_path / "staged")
    assert [path.name for path in folder.iterdir()] == [name] == ["recipe.yaml"]
    assert stage_folder(str(own / "mine.yaml"), own, tmp_path / "unused") == ("mine.yaml", own)
    assert stage_folder("lvm_med/tiny_cpu", own, tmp_path / "unused") == ("lvm_med/tiny_cpu", own)
    with pytest.raises(UserError, match="lies outside of --working-dir"):
        stage_folder(str(own / "mine.yaml"), tmp_path / "staged", tmp_path / "unused")


def test_a_folder_that_ray_would_not_take_is_refused_with_its_largest_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, size in {"small.bin": 10, "sub/large.bin": 5000, "ignored.bin": 9000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / ".rayignore").write_text("ignored.bin\n")
    check_size(tmp_path, most=6000)
    with pytest.raises(UserError, match=r"5,0\d\d bytes, Ray takes 4,000; .*: sub/large.bin \(5,000\), "):
        check_size(tmp_path, most=4000)


def test_a_log_is_followed_over_a_break_and_no_piece_is_given_twice(monkeypatch):
    monkeypatch.setattr(log, "RETRY_S", 0.0)
    pieces = ["one\ntw", "o\n", "three\n"]
    breaks = [2, 3]  # pieces that come before the connection breaks, then all

    class Client:
        async def tail_job_logs(self, job):
            count = breaks.pop(0)
            for piece in pieces[:count]:
                yield piece
            if count < len(pieces):
                raise RuntimeError("WebSocket connection closed unexpectedly")

        def get_job_info(self, job):
            return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: not breaks))

    taken = []
    log.follow(Client(), "job", taken.append)
    assert "".join(taken) == "one\ntwo\nthree\n"


def test_a_cluster_that_stays_silent_is_given_up_with_a_word_about_the_job(monkeypatch):
    monkeypatch.setattr(log, "RETRY_S", 0.0)
    monkeypatch.setattr(log, "LOST_AFTER_S", -1.0)

    class Client:
        async def tail_job_logs(self, job):
            raise RuntimeError("no route")
            yield ""

    with pytest.raises(MedAlignError, match="does not answer any more; job j may go on: no route"):
        log.follow(Client(), "j", print)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_steps_are_lines_in_a_file_and_a_bar_on_a_terminal(is_terminal):
    sink = io.StringIO()
    printer = log.Printer(Console(file=sink, force_terminal=is_terminal, width=100))
    printer.feed("hello\nstep 1/4: loss 2.5, ETA 0:00:09\nstep 4/4: lo")
    printer.feed("ss 1.5\n4 of 4 steps done: s3://b/run")
    printer.close()
    text = sink.getvalue()
    assert printer.last == "4 of 4 steps done: s3://b/run"
    assert "hello" in text
    assert ("step 1/4: loss 2.5" in text) == (not is_terminal)
    assert "4/4" in text
    assert "loss 1.5" in text


def test_a_token_that_is_there_is_used_unless_the_user_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    cluster.use_token()
    assert "RAY_AUTH_MODE" not in cluster.os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    cluster.use_token()
    assert cluster.os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster.use_token()
    assert cluster.os.environ["RAY_AUTH_MODE"] == "disabled"
