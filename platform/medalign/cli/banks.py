"""`medalign bank generate | validate | show | list`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from medalign.errors import BankError, UserError

app = typer.Typer(help="Prompt banks: sentences about each class, for few-shot learning.", no_args_is_help=True)

Limit = Literal["max_tokens", "max_completion_tokens"]
Where = Annotated[str, typer.Argument(metavar="BANK", help="A path, file://, s3:// or gs://, or ready:NAME.")]


@app.command()
def generate(
    corpus: Annotated[str | None, typer.Argument(metavar="[CORPUS]", help="Take the classes of this corpus.")] = None,
    *,
    out: Annotated[str, typer.Option(metavar="URI", help="Where the bank goes; answers are kept beside it.")],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="Before /chat/completions: http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")],
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="One class a line: `name` or `name = display name`.")
    ] = None,
    per_class: Annotated[int, typer.Option(help="Sentences of each class.")] = 4,
    most_words: Annotated[int, typer.Option(help="Words of a sentence.")] = 16,
    about: Annotated[str, typer.Option(help='What the images are: "chest X-rays of children".')] = "",
    template: Annotated[str, typer.Option(help="A sentence with {} for the class's name.")] = "a photo of a {}.",
    name: Annotated[str | None, typer.Option(help="The bank's name; the last part of URI if not given.")] = None,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that holds the endpoint's key.")
    ] = "MEDALIGN_ENDPOINT_KEY",
    json_mode: Annotated[bool, typer.Option(help="Ask the endpoint for JSON; off where it does not know how.")] = True,
    limit_key: Annotated[Limit, typer.Option(help="Or max_completion_tokens, for models that want it.")] = "max_tokens",
    temperature: Annotated[float, typer.Option(help="Negative: the endpoint's own.")] = 0.0,
    parallel: Annotated[int, typer.Option(help="Classes that are asked at once.")] = 4,
    attempts: Annotated[int, typer.Option(help="Answers of a class before it is quarantined.")] = 3,
    tries: Annotated[int, typer.Option(help="Requests for an answer that does not come.")] = 6,
    deadline: Annotated[float, typer.Option(help="Seconds for an answer, waits included.")] = 300.0,
    ask_again: Annotated[bool, typer.Option("--ask-again", help="Ask about quarantined classes once more.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another bank at URI.")] = False,
) -> None:
    """Have a language model write a bank. A killed call goes on when it is repeated; nothing is asked twice."""
    from medalign.banks.generate import generate as run
    from medalign.banks.instruction import Request
    from medalign.cli.printing import bank_progress, show_generated
    from medalign.language_models import Endpoint

    request = Request(
        name=name or out.rstrip("/").rpartition("/")[2].removesuffix(".json"),
        classes=_classes(corpus, classes),
        template=template,
        per_class=per_class,
        most_words=most_words,
        about=about,
    )
    try:
        settings = Endpoint(
            url=endpoint,
            model=model,
            key_variable=key_variable,
            is_json=json_mode,
            limit_key=limit_key,
            temperature=None if temperature < 0 else temperature,
            tries=tries,
            seconds=deadline,
        )
    except ValueError as error:
        raise UserError(f"the endpoint's {error}") from None
    with bank_progress() as progress:
        result = run(
            request,
            settings,
            out=out,
            parallel=parallel,
            attempts=attempts,
            ask_again=ask_again,
            overwrite=overwrite,
            progress=progress,
        )
    show_generated(result)
    if result.bank is None:
        raise typer.Exit(1)


@app.command()
def validate(
    bank: Where,
    *,
    corpus: Annotated[str | None, typer.Option(metavar="URI", help="A corpus that the bank must serve.")] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="FOLDER", help="Of the text tower that reads it.")] = None,
    most_tokens: Annotated[int | None, typer.Option(help="What the text tower reads (CLIP 77).")] = None,
) -> None:
    """Check a bank's form and words, for a corpus and a tokenizer where they are given; exit 1 if anything is wrong."""
    from medalign import banks
    from medalign.cli.printing import show_findings

    if most_tokens is not None and tokenizer is None:
        raise UserError("--most-tokens needs --tokenizer, which counts them.")
    found = banks.read(bank)
    names, limit = (_corpus_classes(corpus) if corpus else None), None
    if tokenizer:
        from medalign.banks.tokens import open_limit

        limit = open_limit(tokenizer, most=most_tokens)
    findings = banks.check(found, classes=names, limit=limit)
    show_findings(found, findings, uri=bank)
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def show(bank: Where) -> None:
    """Show a bank: its origin and every sentence."""
    from medalign import banks
    from medalign.cli.printing import show_bank

    show_bank(banks.read(bank), uri=bank)


@app.command(name="list")
def list_ready() -> None:
    """List the banks that come with the package, as `ready:NAME`."""
    from medalign import banks

    for name in banks.ready_names():
        typer.echo(f"{banks.READY}{name}")


def _classes(corpus: str | None, file: str | None) -> dict[str, str]:
    """Return display names by class, of a corpus or a file."""
    from medalign import storage
    from medalign.banks.instruction import in_words, read_classes

    if (corpus is None) == (file is None):
        raise UserError("give a CORPUS or --classes FILE, one of them: whose classes is the bank to describe?")
    if corpus is not None:
        return {name: in_words(name) for name in _corpus_classes(corpus)}
    try:
        found = read_classes(storage.read_bytes(file or "").decode(), place=file or "")
    except UnicodeDecodeError:
        raise BankError(f"{file}: not UTF-8 text.") from None
    if not found:
        raise BankError(f"{file}: no classes; write one a line.")
    return found


def _corpus_classes(uri: str) -> tuple[str, ...]:
    from medalign.data import manifest

    classes = manifest.read(uri).classes
    if not classes:
        raise BankError(f"{uri}: a corpus without labels; name the classes in a file.")
    return classes
