"""Progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import rich.console

from medalign.tracking.console import Console

VALUES = {"images_per_second": 412.34, "data_wait": 0.031, "matching_accuracy": 0.8125, "loss": 1.23456, "norm": 3.0}


def plain() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), force_terminal=False, width=40)


def test_without_a_terminal_there_is_one_plain_line_per_n_steps():
    out = plain()
    progress = Console(total_steps=25, log_every=10, console=out)
    for step in range(1, 26):
        progress.log(step, VALUES)
    progress.close()
    lines = out.file.getvalue().splitlines()
    expected = "loss 1.2346, matching 0.812, 412.3 images/s, data wait 3%, ETA 0:00:00"
    assert lines == [f"step {step}/25: {expected}" for step in (10, 20, 25)]
    assert "\x1b" not in out.file.getvalue()


def test_what_a_step_lacks_is_left_out():
    out = plain()
    Console(total_steps=5, log_every=1, console=out).log(1, {"loss": float("nan")})
    assert out.file.getvalue() == "step 1/5: loss nan\n"


def test_an_event_is_a_line_with_all_its_values():
    out = plain()
    Console(total_steps=25, console=out).log(3, {"loss": 0.123456, "[bold]": 1e-9}, kind="event")
    assert out.file.getvalue() == "step 3/25: event: loss 0.1235, [bold] 1e-09\n"


def test_a_validation_is_a_line_with_its_main_figures():
    out = plain()
    Console(total_steps=25, console=out).log(3, {"edge": 2.0, "matching_accuracy": 0.5, "loss": 0.1}, kind="validation")
    assert out.file.getvalue() == "step 3/25: validation: loss 0.1, matching accuracy 0.5\n"


def test_the_time_left_counts_from_the_first_step_of_this_attempt(monkeypatch):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("medalign.tracking.console.time.monotonic", lambda: next(clock))
    out = plain()
    progress = Console(total_steps=100, step=50, log_every=1, console=out)
    for step in (51, 52, 53):
        progress.log(step, {"loss": 1.0})
    assert out.file.getvalue().splitlines() == [
        "step 51/100: loss 1.0000",
        "step 52/100: loss 1.0000, ETA 0:08:00",
        "step 53/100: loss 1.0000, ETA 0:07:50",
    ]


def terminal(width: int = 160) -> rich.console.Console:
    return rich.console.Console(record=True, force_terminal=True, width=width, file=io.StringIO(), _environ={})


def test_on_a_terminal_a_bar_shows_everything_and_lines_stand_above_it():
    out = terminal()
    progress = Console(total_steps=400, step=100, log_every=1, console=out)
    progress.log(200, VALUES)
    progress.flush()
    progress.log(200, {"accuracy": 0.5}, kind="validation")
    progress.close()
    text = out.export_text()
    last = text.rstrip().splitlines()[-1]
    assert "200/400" in last
    assert "loss 1.2346, matching 0.812, 412.3 images/s, data wait 3%" in last
    assert last.endswith("ETA --:--")
    assert "step 200/400: validation: accuracy 0.5\n" in text
    assert "step 200/400: loss" not in text, "no plain lines beside the bar"
    assert "\x1b[" in out.file.getvalue()


def test_a_narrow_terminal_still_shows_step_loss_matching_and_rate():
    out = terminal(width=80)
    progress = Console(total_steps=400, console=out)
    progress.log(200, VALUES)
    progress.close()
    assert "200/400 loss 1.2346, matching 0.812, 412.3 images/s, data wait 3% --:--" in out.export_text()


def test_a_resumed_bar_begins_where_the_run_was():
    out = terminal()
    Console(total_steps=400, step=100, console=out).close()
    assert "100/400" in out.export_text()


def test_a_dumb_terminal_has_plain_lines():
    out = rich.console.Console(force_terminal=True, file=io.StringIO(), _environ={"TERM": "dumb"})
    progress = Console(total_steps=2, log_every=1, console=out)
    progress.log(1, {"loss": 1.0})
    progress.close()
    assert out.file.getvalue() == "step 1/2: loss 1.0000\n"
