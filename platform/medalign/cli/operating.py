"""`medalign status | logs | doctor`: how a run goes, and whether a machine can run one."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="The URI of a run, as `medalign train` prints it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    for command in (status, logs, doctor):
        app.command()(command)


def status(run: Run, as_json: AsJson = False) -> None:
    """Tell how far a run is, who works on it, its newest checkpoint, failures and rows left out; asks no cluster."""
    from medalign.watching.status import status as read

    found = read(run)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    from medalign.cli.printing import show_line, show_note, show_table

    owner = found.owner
    pairs = {
        "state": found.state,
        "step": f"{found.step:,}" + (f" of {found.total_steps:,}" if found.total_steps else ""),
        "time left": None if found.eta_seconds is None else str(timedelta(seconds=round(found.eta_seconds))),
        "pace": None if found.seconds_per_step is None else f"{found.seconds_per_step:.3g} s a step",
        "checkpoint": found.checkpoint or "none yet",
        "owner": owner and f"process {owner['pid']} on {owner['host']} since {owner['since']}",
        "last seen": None if found.last_seen is None else f"{found.last_seen:.0f} s ago",
        "attempts": f"{found.attempts}, {found.failures} failed" + _named(found.errors),
        "rows left out": f"{found.quarantined:,}",
        **{name: f"{value:.5g}" for name, value in found.figures.items() if name != "seconds"},
    }
    show_table(("run", ""), [(name, value) for name, value in pairs.items() if value])
    for note in found.notes:
        show_note(note)
    show_line(found.uri)


def logs(
    run: Run,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until nothing works on the run.")] = False,
    tail: Annotated[int, typer.Option(help="Only the last so many lines; 0 for all.")] = 0,
) -> None:
    """Print what a run has noted: attempts, steps, validations, warnings, rows left out, changed keys."""
    from medalign.watching import log

    if follow:
        for line in log.follow(run):
            typer.echo(line)
        return
    for line in log.log_lines(run)[-tail:]:
        typer.echo(line)


def doctor(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Where runs will lie: a round trip is made there.")] = "",
    *,
    address: Annotated[str, typer.Option(metavar="URL", help="A Ray dashboard to ask, http://HOST:8265.")] = "",
    as_json: AsJson = False,
) -> None:
    """Look for what would stop a run: versions, memory, disk, storage, open dashboards; exit 1 if something would."""
    from medalign.doctor import examine

    found = examine(uri=uri, address=address)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=1))
    else:
        from medalign.cli.printing import show_line, show_table

        show_table(("", "", "seen"), [(each.state, each.name, each.seen) for each in found])
        for each in found:
            if each.fix:
                show_line(f"{each.state}: {each.name}: {each.fix}")
    if any(each.state == "broken" for each in found):
        raise typer.Exit(1)


def _named(errors: tuple[str, ...]) -> str:
    return f" ({', '.join(errors)})" if errors else ""
