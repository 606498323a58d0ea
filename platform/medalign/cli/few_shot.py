"""`medalign few-shot RECIPE [key=value ...]`: a comparison of few-shot methods, as a table."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("few-shot")(few_shot)


def few_shot(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe such as dude/small.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, laid over the recipe.")] = None,
) -> None:
    """Compare few-shot methods: train every one on every support, and print the table.

    What is there already is not run again; the table is also written to OUT/results.md.
    """
    from medalign import few_shot as library

    results = library.few_shot(library.open_comparison(recipe, overrides or ()), progress=typer.echo)
    typer.echo(results.markdown())
