"""A process group for one process: there while it is needed, gone afterwards, whatever happens inside."""

import os

import pytest
import torch
import torch.distributed as dist

from medalign.training.session import ProcessSession, process_group

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")


def test_a_group_of_one_is_there_and_gone_again_with_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        with process_group():
            assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
            assert [os.environ[name] for name in NAMES] == ["0", "0", "1", "127.0.0.1"]
            total = torch.ones(2)
            dist.all_reduce(total)
            assert total.tolist() == [1.0, 1.0]
        assert not dist.is_initialized()
        assert [os.environ.get(name) for name in NAMES] == [None, None, "7", None]


def test_an_error_inside_ends_the_group_as_well() -> None:
    before = dict(os.environ)

    def break_inside() -> None:
        with process_group():
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        break_inside()
    assert not dist.is_initialized()
    assert dict(os.environ) == before


def test_a_group_that_cannot_start_leaves_no_variables() -> None:
    before = dict(os.environ)

    def start_two() -> None:
        with process_group(), process_group():
            pass

    with pytest.raises(ValueError, match="initialize the default process group twice"):
        start_two()
    assert not dist.is_initialized()
    assert dict(os.environ) == before


def test_a_session_keeps_reports_and_the_wish_to_stop() -> None:
    session = ProcessSession()
    session.report(3, {"loss": 1.0})
    assert (session.reports, session.stop_requested()) == ([(3, {"loss": 1.0})], False)
    session.stop = True
    assert session.stop_requested()
