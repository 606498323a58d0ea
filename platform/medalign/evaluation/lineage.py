"""What a run has learnt from: the corpora of its own training and of the runs that it goes on from."""

from __future__ import annotations

from typing import Any

from medalign.build import is_run
from medalign.data import manifest
from medalign.data.overlap import find_overlap, place_of
from medalign.errors import RunError
from medalign.evaluation.source import read_recipe

LONGEST = 20  # runs, one from another


def training_places(run: str) -> tuple[tuple[str, str], ...]:
    """Return (corpus, split) of everything that a run and those before it were trained on, its own first.

    A model that began from a directory or a hub id ends the line: what that was trained on is not known here.

    Raises:
        RunError: no run there, or runs that go on from each other in a circle.
    """
    found: dict[tuple[str, str], None] = {}
    here: str | None = run
    for _ in range(LONGEST):
        if here is None:
            return tuple(found)
        recipe = read_recipe(here)
        data: dict[str, Any] = recipe["data"]
        uris = [data["corpus"]] if data.get("corpus") else [part["uri"] for part in data.get("mixture") or ()]
        splits = ("train", *(data.get("allow_splits") or ()))
        found |= dict.fromkeys((uri, split) for uri in uris for split in splits)
        source = recipe["model"].get("source")
        here = str(source) if is_run(source) else None
    raise RunError(f"{run}: more than {LONGEST} runs, one from another.")


def seen_in_training(run: str, corpus: str, split: str) -> tuple[set[str], list[str]]:
    """Return the ids of a split's images that the run or one before it was trained on, near duplicates included.

    Also returns a note for each training corpus that is gone and could not be looked at.

    Raises:
        RunError: no run there.
        CorpusError: no such corpus or split.
    """
    tested = place_of(corpus, split)
    seen: set[str] = set()
    notes: list[str] = []
    for uri, name in training_places(run):
        if place_of(uri, name) == tested:
            seen |= {pair.first for pair in find_overlap([(corpus, split), (f"{uri}/", name)], near=False).pairs}
            continue
        if not manifest.exists(uri):
            notes.append(f"The training corpus {uri} is gone: what it shares with the scored split is not known.")
            continue
        seen |= find_overlap([(corpus, split), (uri, name)]).seen(tested)
    return seen, notes
