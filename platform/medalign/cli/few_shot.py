"""`medalign few-shot RECIPE [key=value ...]` and `medalign few-shot explain RECIPE`: a table, and one cell's plans."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

Recipe = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe such as few_shot/small_sets.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, laid over the recipe.")]


class _OrCompare(TyperGroup):
    """A group whose first word may be a recipe: then it is compared."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `compare` before a word that is no command."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["compare", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_OrCompare,
    help="Compare few-shot methods (`few-shot RECIPE`), or see what the transport of one does.",
    no_args_is_help=True,
)


@app.command()
def compare(recipe: Recipe, overrides: Overrides = None) -> None:
    """Compare few-shot methods: train every one on every support, and print the table.

    What is there already is not run again; the table is also written to OUT/results.md. The word may be left out.
    """
    from medalign import few_shot as library

    results = library.few_shot(library.open_comparison(recipe, overrides or ()), progress=typer.echo)
    typer.echo(results.markdown())


@app.command()
def explain(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    task: Annotated[str, typer.Option(help="A task of the recipe.")],
    method: Annotated[str, typer.Option(help="A method of it that transports: plot, dude, dude_adapter.")],
    shots: Annotated[int, typer.Option(help="One of its shots.")],
    seed: Annotated[int, typer.Option(help="One of its seeds.")],
    out: Annotated[str, typer.Option(metavar="URI", help="Where the page goes.")] = "plans.html",
    images: Annotated[int, typer.Option(min=1, help="Test images of each class.")] = 2,
) -> None:
    """Train one cell anew and write a page: each prompt's plan over test images, and the plans while it learnt."""
    from medalign import few_shot as library
    from medalign.few_shot.cells import Cell
    from medalign.few_shot.explaining import explain as run
    from medalign.reports.plans import write_plans

    cell = Cell(task=task, method=method, shots=shots, seed=seed)
    write_plans(run(library.open_comparison(recipe, overrides or ()), cell, images=images), out)
    typer.echo(out)
