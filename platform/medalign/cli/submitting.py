"""`medalign submit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from medalign.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command of this file to the program."""
    app.command()(submit)


def submit(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name of `medalign recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe; run.uri=s3://...")
    ] = None,
    *,
    address: Annotated[str, typer.Option(metavar="URL", help="http://host:8265; RAY_ADDRESS if not given.")] = "",
    working_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Travels with the job, for classes that the recipe names.")
    ] = None,
    image_code: Annotated[bool, typer.Option("--image-code", help="Use the MedAlign of the nodes' image.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and end.")] = False,
) -> None:
    """Train a recipe as a job of a Ray cluster; follow its log, and end with its exit code.

    The same command again follows the job while it is at work, and goes on with the run when it is not.
    """
    where = address or os.environ.get("RAY_ADDRESS", "")
    if not where:
        raise UserError("give --address http://host:8265, the cluster's dashboard.")
    from medalign.submission import submit as start
    from medalign.submission.log import Printer

    printer = Printer()
    try:
        done = start(
            recipe,
            overrides or (),
            address=where,
            working_dir=working_dir,
            image_code=image_code,
            wait=not no_wait,
            take=printer.feed,
        )
    except KeyboardInterrupt:
        typer.echo("the job goes on; the same command follows it again.", err=True)
        raise
    finally:
        printer.close()
    if no_wait:
        typer.echo(done.job)
    elif done.status != "SUCCEEDED":
        raise typer.Exit(done.exit_code if done.exit_code and done.exit_code > 0 else 1)
