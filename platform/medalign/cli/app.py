"""The program `medalign`: its commands under one roof, and how each kind of error ends it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from medalign.cli import (
    banks,
    checkpoints,
    clusters,
    corpora,
    few_shot,
    operating,
    planning,
    questions,
    runs,
    submitting,
    sweeps,
)
from medalign.errors import MedAlignError, WorkerError

INTERRUPTED = 130  # 128 + SIGINT, as shells count; typer gives it for Ctrl-C

app = typer.Typer(
    name="medalign",
    help="Train and tune medical vision-language models on a Ray cluster, and measure what they learned.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(corpora.app, name="data")
app.add_typer(banks.app, name="bank")
app.add_typer(few_shot.app, name="few-shot")
app.add_typer(checkpoints.app, name="checkpoint")
app.add_typer(clusters.app, name="cluster")
runs.register(app)
planning.register(app)
operating.register(app)
questions.register(app)
submitting.register(app)
sweeps.register(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: 0 done, 1 it failed, 2 what was given is wrong, 130 interrupted.

    An error that MedAlign raises on purpose is one line on stderr; any other keeps its traceback.

    Args:
        arguments: the words after `medalign`; those of this process if None.
    """
    _see_current_folder()
    _quieten()
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="medalign", standalone_mode=False)
    except WorkerError as error:
        print(error.trace.rstrip(), file=sys.stderr)  # noqa: T201
        sys.exit(_refuse(str(error), error.exit_code))
    except MedAlignError as error:
        sys.exit(_refuse(str(error), error.exit_code))
    except typer.TyperException as error:  # a word that the program does not know, or one that is missing
        sys.exit(_refuse(error.format_message(), error.exit_code) if error.format_message() else error.exit_code)
    except BrokenPipeError:  # the reader has gone: `medalign recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)  # noqa: T201
    sys.exit(code if isinstance(code, int) else 0)


def _see_current_folder() -> None:
    """Let `package.module:Class` name a class in the current folder; Ray gives its workers the same folder.

    It goes to the end of the path, so that a file of the user's can never take the place of a package.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _quieten() -> None:
    """Silence what users can do nothing about: notices of frameworks about frameworks. Our own modules stay heard.

    Ray's workers write to Ray's logs, not here.
    """
    for package in ("torch", "deepspeed", "ray", "transformers"):
        for kind in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=kind, module=rf"{package}\.")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def _refuse(problem: str, code: int) -> int:
    print(f"error: {' '.join(problem.split())}", file=sys.stderr)  # noqa: T201
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medalign {metadata.version('medalign')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
