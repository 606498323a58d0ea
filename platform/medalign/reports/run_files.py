"""What a run left at its URI, read for its page: recipe, versions, metrics, evaluations, the matched graph."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from medalign import storage
from medalign.errors import RunError
from medalign.evaluation.annotated import result as annotated_results
from medalign.evaluation.annotated.result import AnnotatedResult
from medalign.evaluation.result import SCORES, EvaluationResult, loads
from medalign.evaluation.source import read_recipe

ENVIRONMENT, METRICS = "environment.json", "metrics.jsonl"
MATCHING, EVALUATIONS = "figures/matching.npz", "evaluations"


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """Two views of one graph's images and what was matched.

    Attributes:
        first: (N, H, W, 3) thumbnails of the first view, RGB.
        second: (N, H, W, 3) of the second; image i is shown in both.
        matching: (N,) the image of the second view that image i of the first was given.
        affinity: (N, N) vertex affinities, first by second.
    """

    first: UInt8[ndarray, "N H W 3"]
    second: UInt8[ndarray, "N H W 3"]
    matching: Int[ndarray, " N"]
    affinity: Float[ndarray, "N N"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFiles:
    """A run as it lies there; `train` and `validation` hold one record per step, in order of the steps."""

    uri: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    train: tuple[dict[str, Any], ...]
    validation: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
    evaluations: dict[str, EvaluationResult]
    annotated: dict[str, AnnotatedResult]
    matching: Matching | None
    notes: tuple[str, ...]

    def get(self, path: str, default: Any = None) -> Any:
        """Return the recipe's value at a dotted path, or `default` where it has none."""
        value: Any = self.recipe
        for key in path.split("."):
            if not isinstance(value, dict) or value.get(key) is None:
                return default
            value = value[key]
        return value


def read(run: str) -> RunFiles:
    """Read everything a page shows. Only the recipe must be there: a page of a run that failed early is worth having.

    Raises:
        RunError: no run at this URI, or a file of it that cannot be understood.
        StorageError: the place cannot be reached.
    """
    recipe = read_recipe(run)
    environment = _environment(storage.join(run, ENVIRONMENT))
    records, torn = _records(storage.join(run, METRICS))
    notes = (f"{torn} unreadable lines of {METRICS} were left out.",) if torn else ()
    return RunFiles(
        uri=storage.absolute(run),
        recipe=recipe,
        environment=environment,
        train=_by_step(records, "train"),
        validation=_by_step(records, "validation"),
        events=tuple(record for record in records if record.get("kind") == "event"),
        evaluations=_evaluations(run),
        annotated=_annotated(run),
        matching=_matching(storage.join(run, MATCHING)),
        notes=notes,
    )


def _environment(where: str) -> dict[str, Any]:
    if not storage.exists(where):
        return {}
    try:
        value = json.loads(storage.read_bytes(where))
    except ValueError as error:
        raise RunError(f"{where}: cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected keys and values, found {type(value).__name__}.")
    return value


def _records(where: str) -> tuple[list[dict[str, Any]], int]:
    """Return the records and how many lines are torn: a killed run may end in half a line."""
    if not storage.exists(where):
        return [], 0
    found, torn = [], 0
    for line in storage.read_bytes(where).decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            found.append(record)
        else:
            torn += bool(line.strip())
    return found, torn


def _by_step(records: list[dict[str, Any]], kind: str) -> tuple[dict[str, Any], ...]:
    """Return one record per step: a resumed run repeats some, and the later one belongs to the weights that stayed."""
    latest = {
        record["step"]: record
        for record in records
        if record.get("kind") == kind and isinstance(record.get("step"), int | float) and math.isfinite(record["step"])
    }
    return tuple(latest[step] for step in sorted(latest))


def _evaluations(run: str) -> dict[str, EvaluationResult]:
    root = storage.join(run, EVALUATIONS)
    places = {name: storage.join(root, name, SCORES) for name in storage.list_folders(root)}
    return {name: loads(storage.read_bytes(at), where=at) for name, at in places.items() if storage.exists(at)}


def _annotated(run: str) -> dict[str, AnnotatedResult]:
    root = storage.join(run, EVALUATIONS)
    places = {name: storage.join(root, name) for name in storage.list_folders(root)}
    has = {name: at for name, at in places.items() if storage.exists(storage.join(at, annotated_results.SCORES))}
    return {name: annotated_results.load(at) for name, at in has.items()}


def _matching(where: str) -> Matching | None:
    if not storage.exists(where):
        return None
    try:
        with np.load(BytesIO(storage.read_bytes(where)), allow_pickle=False) as arrays:
            found = Matching(**{name: arrays[name] for name in ("first", "second", "matching", "affinity")})
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise RunError(f"{where}: cannot be read ({error}).") from error
    nodes = len(found.first)
    if found.first.shape != found.second.shape or found.first.shape[3:] != (3,) or found.affinity.shape != (nodes,) * 2:
        raise RunError(f"{where}: views {found.first.shape} and {found.second.shape}, affinity {found.affinity.shape}.")
    if sorted(found.matching.tolist()) != list(range(nodes)):
        raise RunError(f"{where}: the matching is no permutation of {nodes} nodes.")
    return found
