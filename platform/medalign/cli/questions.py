"""`medalign evaluate ... --task vqa` and `medalign chat`: models that answer questions about images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medalign.errors import UserError

if TYPE_CHECKING:
    from medalign.evaluation.vqa.conversation import Conversation
    from medalign.evaluation.vqa.settings import VqaSettings

LEAVE, FORGET = ("/quit", "/exit"), "/forget"


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command()(chat)


def evaluate_vqa(
    source: str | None,
    *,
    corpus: str,
    predictions: Sequence[str],
    against: Sequence[str],
    endpoint: str,
    model: str,
    out: str,
    settings: VqaSettings,
) -> None:
    """Score a model directory, a file of predictions or an endpoint, and print the table."""
    from medalign.cli.printing_answers import progress_line, show_answers, show_paired
    from medalign.evaluation.vqa import task

    given = [
        name for name, value in (("MODEL", source), ("--predictions", predictions), ("--endpoint", endpoint)) if value
    ]
    if len(given) != 1:
        raise UserError(f"give one of MODEL, --predictions and --endpoint, got {' and '.join(given) or 'none'}.")
    if against and not predictions:
        raise UserError("--against compares with another file of predictions; give the first one by --predictions.")
    if predictions:
        show_answers(task.evaluate_predictions(predictions, corpus=corpus, out=out, settings=settings))
        if against:
            show_paired(task.compare_files(predictions, against, corpus=corpus, settings=settings))
        return
    asked = _endpoint(endpoint, model, settings.max_new_tokens) if endpoint else str(source)
    with progress_line("questions") as progress:
        result = task.evaluate_model(asked, corpus=corpus, out=out, settings=settings, progress=progress)
    show_answers(result)


def chat(
    source: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="A model's directory, or a run with an export.")],
    *,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A PNG or a JPEG.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 256,
    page: Annotated[bool, typer.Option("--page", help="In a browser instead, at this machine; needs gradio.")] = False,
    port: Annotated[int, typer.Option(help="Of the page.")] = 7860,
) -> None:
    """Talk to a model about an image; it remembers what was said.

    /forget begins again, /quit or Ctrl-D ends. Not for clinical use.
    """
    from medalign import storage
    from medalign.evaluation.source import RECIPE
    from medalign.evaluation.vqa.answerers import open_trained
    from medalign.evaluation.vqa.conversation import Conversation
    from medalign.multimodal_models import open_multimodal
    from medalign_core.models.multimodal.settings import Llava

    if not page and (image is None or not image.is_file()):
        raise UserError(f"--image {image}: no such file." if image else "give an image with --image, or --page.")
    place = open_trained(source) if storage.exists(storage.join(source, RECIPE)) else source
    opened = open_multimodal(Llava(source=place, text_nodes="in_context", attention="sdpa"))
    if page:
        from medalign.cli.chat_page import build_page

        name = source.rstrip("/").rpartition("/")[2]
        build_page(opened, name=name, max_new_tokens=max_new_tokens).launch(server_name="127.0.0.1", server_port=port)
        return
    assert image is not None
    _talk(Conversation(opened, image.read_bytes(), max_new_tokens=max_new_tokens))


def _talk(conversation: Conversation) -> None:
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if text in LEAVE:
            return
        if text == FORGET:
            conversation.forget()
        elif text:
            conversation.say(text, write=lambda piece: typer.echo(piece, nl=False))
            typer.echo()


def _endpoint(url: str, model: str, max_tokens: int):  # noqa: ANN202  the import is late
    from medalign.language_models import Endpoint

    if not model:
        raise UserError("--endpoint needs --model: the model's name there.")
    try:
        return Endpoint(url=url, model=model, max_tokens=max_tokens, is_json=False, top_p=None)
    except ValueError as error:
        raise UserError(f"--endpoint: {error}") from error
