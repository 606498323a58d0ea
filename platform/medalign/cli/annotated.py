"""`medalign evaluate ... --task classification | segmentation | detection`."""

from __future__ import annotations

from typing import Literal

from medalign.errors import UserError


def evaluate_annotated(
    run: str,
    *,
    corpus: str,
    task: str,
    checkpoint: Literal["best", "latest"],
    split: str,
    shift: str,
    overlap: bool,
    out: str,
) -> None:
    """Predict and score a split with a run's model, and print the tables."""
    from medalign.cli.printing_annotated import show_annotated
    from medalign.evaluation.annotated.settings import AnnotatedSettings
    from medalign.evaluation.annotated.task import evaluate_annotated as evaluate

    try:
        settings = AnnotatedSettings(split=split, shift=shift)
    except ValueError as error:
        raise UserError(f"--shift: {error}") from error
    show_annotated(
        evaluate(run, corpus=corpus, task=task, checkpoint=checkpoint, overlap=overlap, out=out, settings=settings)
    )
