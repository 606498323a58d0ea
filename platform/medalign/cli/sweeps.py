"""`medalign tune RECIPE [key=value ...]` and `medalign tune --resume URI`: a sweep, and its page."""

from __future__ import annotations

from typing import Annotated

import typer

from medalign.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(tune)


def tune(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe, with search: and tune:.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe: tune.trials=8")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="URI", help="Go on with the sweep that lives here, after whatever ended it.")
    ] = "",
) -> None:
    """Search a recipe's keys: sample, schedule, record every trial in a ledger, and write the best recipe and a page.

    The same command goes on where the same sweep stopped; so does --resume, which needs the sweep's URI alone.
    """
    from medalign.tune import sweep

    if resume:
        found = sweep.resume(resume, [word for word in (recipe, *(overrides or ())) if word], progress=typer.echo)
    elif recipe is None:
        raise UserError("give a recipe, or --resume URI.")
    else:
        found = sweep.tune(recipe, overrides or (), progress=typer.echo)
    from medalign.reports.sweep import write_sweep

    page = write_sweep(found.uri)
    ended = ", ".join(f"{count} {state}" for state, count in found.counted().items())
    typer.echo(f"{found.uri}: {len(found.trials)} trials: {ended}")
    for note in found.notes:
        typer.echo(note)
    typer.echo(f"page: {page}")
    if found.best is None:
        raise typer.Exit(1)
    typer.echo(f"best: trial {found.best}, {found.metric} {found.value:.6g}: {found.uri}/best.yaml")
