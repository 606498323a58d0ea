"""`medalign plan RECIPE [key=value ...]`: what a run will need, before a GPU is rented."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from medalign.errors import UserError

if TYPE_CHECKING:
    from medalign.plan.forecast import Assumptions
    from medalign.recipe import Recipe

FEW_SHOT = "few_shot/"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(plan)


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name of `medalign recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe: train.zero_stage=3")
    ] = None,
    *,
    gpu: Annotated[str, typer.Option(help="Which GPU it must fit, e.g. a100-80gb; `--gpu list` names them.")] = "",
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that training reaches.")] = 0.3,
    price: Annotated[float | None, typer.Option(help="Dollars per GPU and hour.")] = None,
    like: Annotated[str, typer.Option(help="A published corpus in place of one at hand; `--like list`.")] = "",
    rows: Annotated[int | None, typer.Option(help="Rows of a corpus that is not at hand.")] = None,
    tokens: Annotated[str, typer.Option(help="Of its texts: conversation=540,learnt=185,answer=185.")] = "",
    upload_rate: Annotated[float, typer.Option(help="MB/s at which a worker uploads a checkpoint.")] = 100.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell parameters, memory, what fits, steps, bytes, hours and dollars of a run; starts and writes nothing."""
    from medalign.plan.gpus import GPUS
    from medalign.plan.published import CORPORA

    if "list" in (gpu, like):
        for name, entry in (GPUS if gpu == "list" else CORPORA).items():
            typer.echo(f"{name}: {entry.source}")  # type: ignore[attr-defined]
        return
    if recipe.startswith(FEW_SHOT):
        _plan_few_shot(recipe, overrides or (), as_json=as_json)
        return
    given = _assumptions(gpu=gpu, mfu=mfu, price=price, like=like, rows=rows, tokens=tokens, upload_rate=upload_rate)
    settled = _open(recipe, overrides or (), stands_in=given.rows is not None)
    from medalign.cli.printing_plan import show_forecast
    from medalign.plan.forecast import forecast

    found = forecast(settled, given)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    show_forecast(found, given)


def _open(recipe: str, overrides: Sequence[str], *, stands_in: bool) -> Recipe:
    """Return the recipe; a corpus that is not at hand is named as one, so that the recipe is whole."""
    from medalign.recipe import open_recipe

    named = any(override.startswith(("data.corpus=", "data.mixture")) for override in overrides)
    return open_recipe(recipe, [*overrides, *([] if named or not stands_in else ["data.corpus=not-at-hand"])])[0]


def _assumptions(
    *, gpu: str, mfu: float, price: float | None, like: str, rows: int | None, tokens: str, upload_rate: float
) -> Assumptions:
    from medalign.plan.forecast import Assumptions
    from medalign.plan.gpus import find_gpu
    from medalign.plan.published import find_corpus

    corpus = find_corpus(like) if like else None
    given = _pairs(tokens) or (dict(corpus.tokens) if corpus else {})
    return Assumptions(
        gpu=find_gpu(gpu) if gpu else None,
        utilisation=mfu,
        price=price,
        upload_rate=upload_rate * 1e6,
        rows=rows or (corpus.rows if corpus else None),
        row_bytes=corpus.row_bytes if corpus else 20_000,
        tokens=given,
    )


def _pairs(text: str) -> dict[str, float]:
    known = ("conversation", "learnt", "answer", "extended")
    try:
        found = {name: float(count) for name, _, count in (part.partition("=") for part in text.split(",") if part)}
    except ValueError:
        found = {"": 0.0}
    if any(name not in known or not count >= 1 for name, count in found.items()):
        raise UserError(f"--tokens {text}: write NAME=COUNT,..., names: {', '.join(known)}, counts >= 1.")
    return found


def _plan_few_shot(recipe: str, overrides: Sequence[str], *, as_json: bool) -> None:
    from medalign.cli.printing import show_line, show_table
    from medalign.few_shot import open_comparison
    from medalign.few_shot.forecast import forecast

    found = forecast(open_comparison(recipe, overrides))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    head = ("method", "trained", "cells", "epochs", "steps of the largest cell")
    show_table(
        head,
        [
            (
                m.name,
                f"{m.trained:,}" if m.trained is not None else "unknown",
                f"{m.cells:,}",
                str(m.epochs),
                f"{m.steps:,}",
            )
            for m in found.methods
        ],
    )
    for note in found.notes:
        show_line(f"note: {note}")
    show_line(f"{found.cells:,} cells of {found.supports:,} supports, {found.images:,} images encoded")
