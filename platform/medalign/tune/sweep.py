"""tune(recipe) and resume(uri): a sweep from its recipe to its best recipe, or on from where its driver was killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from medalign import config, storage
from medalign.config import Document
from medalign.errors import RunError
from medalign.recipe import find
from medalign.storage import locks
from medalign.tune import folder
from medalign.tune.ledger import Ledger, read_events, trials_of
from medalign.tune.packing import pack
from medalign.tune.result import SweepResult
from medalign.tune.samplers import build_sampler, check_sampler, planned
from medalign.tune.settings import ASHA, MedianStopping, Root, Tune
from medalign.tune.space import Space, read_space
from medalign.tune.subject import Subject, open_subject

Progress = Callable[[str], None]


def tune(recipe: str, overrides: Sequence[str] = (), *, progress: Progress = lambda line: None) -> SweepResult:
    """Run a sweep, or go on where the same sweep stopped.

    Args:
        recipe: a YAML file or the name of a shipped recipe, with the sections `search` and `tune`.
        overrides: dotted keys laid over it, e.g. ["tune.trials=8"].
        progress: is told a line now and then.

    Raises:
        UserError: anything wrong with the recipe, the space, the metric, the corpus or the place; before any trial.
        RunLockedError: the same sweep is at work already.
    """
    return _run(config.load(str(find(recipe)), overrides), progress)


def resume(uri: str, overrides: Sequence[str] = (), *, progress: Progress = lambda line: None) -> SweepResult:
    """Go on with a sweep from its ledger alone: what its driver left unfinished is run again under the same number.

    Args:
        uri: of the sweep.
        overrides: of `tune.trials`, `tune.concurrent` and others that change no trial.
        progress: is told a line now and then.

    Raises:
        RunError: no sweep is there.
        UserError: as `tune`.
    """
    where = storage.join(storage.absolute(uri), folder.RECIPE)
    if not storage.exists(where):
        raise RunError(f"{uri}: no sweep is here; give the tune.uri of one, or start it with medalign tune RECIPE.")
    return _run(config.load(where, overrides), progress)


def _run(document: Document, progress: Progress) -> SweepResult:
    settings, space, subject, document = opened(document)
    with locks.hold(storage.join(settings.uri, "sweep.lock"), of=settings.uri):
        folder.claim(settings.uri, document.values)
        known = trials_of(read_events(settings.uri))
        total, done = planned(settings, space), [trial for trial in known if trial.state]
        progress(f"{settings.uri}: {total} trials, {len(done)} of them done")
        work = None
        if len(done) < total:
            from medalign.tune.driver import connect, run_trials
            from medalign.tune.searching import Book

            have, cores = connect()
            packing = pack(settings, have, cores=cores, demand=subject.demand)
            subject.check_metrics()
            work = subject.work()
            ledger = Ledger(settings.uri)
            ledger.write("begun", versions=folder.versions(), concurrent=packing.concurrent, pid=os.getpid())
            book = Book(ledger, build_sampler(settings, space, document, known), known, settings, total=total)
            run_trials(book, work, settings, packing, total_steps=subject.total_steps(space), progress=progress)
            ledger.flush()
        return folder.finish(settings, subject, work, trials_of(read_events(settings.uri)))


def opened(document: Document) -> tuple[Tune, Space, Subject, Document]:
    """Check everything about a sweep that needs no cluster, and return its parts; the document with a whole URI.

    Raises:
        RecipeError: anything wrong with the sections `search` and `tune`, or with the recipe at an end of the space.
    """
    if not isinstance(document.values.get("tune"), dict):
        raise document.error(("tune",), "missing; a sweep has tune: {uri: ..., metric: ..., trials: ...}.")
    settings = config.build(Root, document.only("tune")).tune
    settings = replace(settings, uri=storage.absolute(settings.uri))
    space = read_space(document)
    subject = open_subject(document.without("tune", "search"), settings)
    check_sampler(settings, space, document)
    subject.check(space)
    _check_scheduler(settings, space, subject, document)
    document.values["tune"]["uri"] = settings.uri
    return settings, space, subject, document


def _check_scheduler(settings: Tune, space: Space, subject: Subject, document: Document) -> None:
    chosen: Any = settings.scheduler
    if isinstance(chosen, ASHA | MedianStopping) and chosen.grace >= (total := subject.total_steps(space)):
        problem = f"must be < {total}, the steps of a trial; nothing would ever be stopped."
        raise document.error(("tune", "scheduler", "grace"), problem, value=chosen.grace)
