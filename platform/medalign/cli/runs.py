"""`medalign train | evaluate | report | export | embed | recipes`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from medalign.errors import UserError
from medalign.recipe import open_recipe, shipped

Which = Literal["best", "latest"]
TASKS = ("probe", "vqa", "classification", "segmentation", "detection")
Run = Annotated[str, typer.Argument(metavar="RUN", help="The URI of a run, as `medalign train` prints it.")]
Corpus = Annotated[str, typer.Option(metavar="URI", help="A prepared corpus.")]
Checkpoint = Annotated[Which, typer.Option(help="Which checkpoint of the run.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    for command in (train, evaluate, report, export, embed, recipes):
        app.command()(command)


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name of `medalign recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe: train.steps=100")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan; start and write nothing.")
    ] = False,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Go on though seed, data, global batch or another key has changed.")
    ] = False,
) -> None:
    """Train what a recipe says, or go on where the same run stopped."""
    settings, document = open_recipe(
        recipe, overrides or ()
    )  # whatever is wrong with a key shows before anything heavy
    from medalign.cli import printing
    from medalign.storage import locks

    for note in document.notes:
        printing.show_note(note)
    if not dry_run:  # training asks again; here it is told before anything heavy is loaded
        locks.check(locks.of_run(settings.run.uri), of=settings.run.uri)
    from medalign import launch

    if dry_run:
        printing.show_plan(*launch.dry_run(recipe, overrides or (), allow_change=allow_change))
        return
    result = launch.train(recipe, overrides or (), allow_change=allow_change)
    for note in result.notes[len(document.notes) :]:
        printing.show_note(note)
    printing.show_end(result, best=settings.train.best)
    if result.step < result.total_steps:
        raise typer.Exit(1)


def evaluate(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN|MODEL", help="A run; for --task vqa a model's directory does, too.")
    ] = None,
    *,
    corpus: Corpus,
    task: Annotated[
        str, typer.Option(help="What to evaluate: probe, vqa, classification, segmentation or detection.")
    ] = "probe",
    checkpoint: Checkpoint = "best",
    seeds: Annotated[
        str,
        typer.Option(help="probe: seeds of the untrained encoders beside it, e.g. 0,1,2; the run's own if not given."),
    ] = "",
    predictions: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="vqa: score these (.jsonl or .parquet), of any system; may be repeated."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="vqa: compare --predictions with these, paired over seeds and images."),
    ] = None,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="vqa: ask a chat endpoint that takes images.")] = "",
    model: Annotated[str, typer.Option(help="vqa: the model's name at --endpoint.")] = "",
    split: Annotated[str, typer.Option(help="All but probe: which split.")] = "test",
    limit: Annotated[int | None, typer.Option(help="vqa: ask only so many questions.")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="vqa: blank and shuffled images beside it.")] = False,
    candidates: Annotated[bool, typer.Option("--candidates", help="vqa: the likeliest option, beside text.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="vqa: the most tokens of an answer.")] = 64,
    batch: Annotated[int, typer.Option(help="vqa: questions answered at once.")] = 8,
    workers: Annotated[int, typer.Option(help="vqa: models at work on Ray; 0 answers in this process.")] = 0,
    shift: Annotated[
        str, typer.Option(help="Predictions: a synthetic shift: contrast, resolution, noise or stain.")
    ] = "",
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Predictions: scores with and without images seen in training.")
    ] = False,
    out: Annotated[str, typer.Option(metavar="URI", help="All but probe: where predictions and scores go.")] = "",
) -> None:
    """Probe a run's frozen encoder on a labelled corpus, or score its predictions, or answers to questions.

    Beside a probe stand the same encoder untrained, and raw pixels; beside answers, floors that see no image.
    """
    if task == "vqa":
        from medalign.cli.questions import evaluate_vqa
        from medalign.evaluation.vqa.settings import VqaSettings

        settings = VqaSettings(
            split=split,
            limit=limit,
            max_new_tokens=max_new_tokens,
            batch=batch,
            workers=workers,
            controls=controls,
            candidates=candidates,
        )
        evaluate_vqa(
            run,
            corpus=corpus,
            predictions=predictions or (),
            against=against or (),
            endpoint=endpoint,
            model=model,
            out=out,
            settings=settings,
        )
        return
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there is: {', '.join(TASKS)}.")
    if run is None:
        raise UserError("give the URI of a run, as `medalign train` prints it.")
    if task != "probe":
        from medalign.cli.annotated import evaluate_annotated

        evaluate_annotated(
            run, corpus=corpus, task=task, checkpoint=checkpoint, split=split, shift=shift, overlap=overlap, out=out
        )
        return
    wanted = _integers(seeds, "--seeds") if seeds else None
    from medalign.cli.printing import show_scores
    from medalign.evaluation.task import evaluate as probe

    show_scores(probe(run, corpus=corpus, task=task, checkpoint=checkpoint, seeds=wanted))


def report(run: Run) -> None:
    """Write the page of a run, or of a sweep, one HTML file."""
    from medalign.reports.page import report as write
    from medalign.reports.sweep import is_sweep, write_sweep

    typer.echo(write_sweep(run) if is_sweep(run) else write(run))


def export(
    run: Run,
    *,
    to: Annotated[str, typer.Option(metavar="DIR", help="An empty place.")],
    checkpoint: Checkpoint = "best",
) -> None:
    """Write a run's encoder as a plain transformers directory."""
    from medalign.exporting import export as write

    typer.echo(write(run, to, checkpoint=checkpoint).uri)


def embed(
    source: Annotated[str, typer.Argument(metavar="RUN|DIR", help="A run, or a directory that transformers can load.")],
    *,
    corpus: Corpus,
    out: Annotated[str, typer.Option(metavar="URI", help="Where the features go; an empty place.")],
    checkpoint: Checkpoint = "best",
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; the encoder's own if not given.")] = None,
    splits: Annotated[str, typer.Option(help="E.g. train,val; all if not given.")] = "",
    actors: Annotated[int | None, typer.Option(help="Encoders at work; one per GPU if not given.")] = None,
) -> None:
    """Write the features of every image of a corpus to Parquet."""
    from medalign.cli.printing import show_features
    from medalign.evaluation.embed import embed as write

    chosen = [name.strip() for name in splits.split(",")] if splits else None
    show_features(
        write(
            source,
            corpus=corpus,
            out=out,
            checkpoint=checkpoint,
            image_size=image_size,
            splits=chosen,
            actors=actors,
        )
    )


def recipes() -> None:
    """List the recipes that come with MedAlign."""
    for name in shipped():
        typer.echo(name)


def _integers(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{name} {text}: not whole numbers; write e.g. {name} 0,1,2.") from None
