"""`medalign data extend` and `medalign data review`: answers written again at length, and their review."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from medalign.errors import UserError

Limit = Literal["max_tokens", "max_completion_tokens"]
Corpus = Annotated[str, typer.Argument(metavar="URI", help="A prepared corpus: a path, file://, s3:// or gs://.")]


def register(app: typer.Typer) -> None:
    """Put the commands under `medalign data`."""
    app.command()(extend)
    app.command()(review)


def extend(
    uri: Corpus,
    *,
    out: Annotated[str, typer.Option(metavar="URI", help="Where the new corpus goes; answers are kept beside it.")],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="Before /chat/completions: http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")],
    about: Annotated[str, typer.Option(help='What the images are: "chest X-rays of adults".')] = "",
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that holds the endpoint's key.")
    ] = "MEDALIGN_ENDPOINT_KEY",
    json_mode: Annotated[bool, typer.Option(help="Ask the endpoint for JSON; off where it does not know how.")] = True,
    limit_key: Annotated[Limit, typer.Option(help="Or max_completion_tokens, for models that want it.")] = "max_tokens",
    temperature: Annotated[float, typer.Option(help="Negative: the endpoint's own.")] = 0.0,
    parallel: Annotated[int, typer.Option(help="Answers asked for at once, by each actor.")] = 4,
    attempts: Annotated[int, typer.Option(help="Answers to a question before it is quarantined.")] = 3,
    tries: Annotated[int, typer.Option(help="Requests for an answer that does not come.")] = 6,
    deadline: Annotated[float, typer.Option(help="Seconds for an answer, waits included.")] = 300.0,
    actors: Annotated[int, typer.Option(help="On Ray; 0 asks from this process.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    decisions: Annotated[
        str, typer.Option(metavar="FILE", help="What a review saved: rejected answers are left out.")
    ] = "",
) -> None:
    """Have a language model write a corpus's training answers again. A killed call goes on when it is repeated."""
    from medalign.cli.printing import show_line
    from medalign.cli.printing_answers import progress_line
    from medalign.extended_answers.generate import extend as run
    from medalign.extended_answers.review import read_decisions
    from medalign.language_models import Endpoint

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
    rejected = read_decisions(decisions) if decisions else ()
    with progress_line("rows extended") as progress:
        found = run(
            uri,
            settings,
            out=out,
            about=about,
            parallel=parallel,
            attempts=attempts,
            actors=actors,
            limit=limit,
            rejected=rejected,
            progress=progress,
        )
    show_line(f"{found.extended:,} of {found.rows:,} training rows have extended answers, {found.answers:,} answers")
    for problem, count in found.quarantined.items():
        show_line(f"quarantined: {count:,}: {problem}")
    show_line(f"{found.unfaithful:.1%} of the model's answers were unfaithful; {found.asked:,} answers asked for now")
    show_line(found.uri)


def review(
    uri: Corpus,
    *,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where the page goes.")] = "review.html",
    samples: Annotated[int, typer.Option(help="Answers on it.")] = 40,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
) -> None:
    """Write a page of extended answers beside their images, to accept or reject; it saves decisions.json."""
    from medalign.cli.printing import show_line
    from medalign.extended_answers.review import write_page

    count = write_page(uri, out, samples=samples, seed=seed)
    show_line(
        f"{count} answers in {out}; `medalign data extend ... --decisions decisions.json` leaves out the rejected"
    )
