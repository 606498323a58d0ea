"""pool(runs): evaluations of runs that differ in their seed, as one: paired over seeds and groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medalign import storage
from medalign.errors import RunError
from medalign.evaluation.probe import ProbeSettings
from medalign.evaluation.result import PREDICTIONS, SCORES, EvaluationResult, Predictions, from_parquet, loads
from medalign.evaluation.task import FOLDER, store, summarise


def pool(runs: Sequence[str], *, evaluation: str, out: str, settings: ProbeSettings | None = None) -> EvaluationResult:
    """Compare over seeds: read one evaluation of each run, and store scores and comparisons of all at `out`.

    Nothing is run again: everything follows from the stored predictions. An untrained encoder is paired with the run
    of its own seed.

    Args:
        runs: URIs of runs that were each evaluated under the name `evaluation`, each with its own seed.
        evaluation: the evaluation's folder, such as "xray-probe".
        out: URI of the folder to write; put it under a run's `evaluations/` and that run's page shows it.
        settings: of the intervals.

    Raises:
        RunError: a run without this evaluation, runs with the same seed, or evaluations of different test images.
    """
    if not runs:
        raise RunError("no runs to pool; give the URIs of runs that were evaluated.")
    settings = settings or ProbeSettings()
    found: dict[tuple[str, str, int], Predictions] = {}
    results: list[EvaluationResult] = []
    first = None
    for run in runs:
        uri = storage.join(run, FOLDER, evaluation)
        if not storage.exists(storage.join(uri, PREDICTIONS)):
            raise RunError(f"{run}: no evaluation {evaluation!r}; make it with `medalign evaluate`.")
        results.append(loads(storage.read_bytes(storage.join(uri, SCORES)), where=storage.join(uri, SCORES)))
        predictions, samples, classes = from_parquet(storage.read_bytes(storage.join(uri, PREDICTIONS)))
        first = first or (samples, classes)
        if classes != first[1] or not np.array_equal(samples.ids, first[0].ids):
            raise RunError(f"{run}: {evaluation!r} was made on other test images than that of {runs[0]}.")
        for entry in predictions:
            _add(found, entry, run)
    assert first is not None
    shared = ("corpus", "fingerprint", "task", "checkpoint", "classes", "rows", "groups", "selection")
    known = {field: getattr(results[0], field) for field in shared}
    known["run"] = ", ".join(storage.absolute(run) for run in runs)
    known["notes"] = tuple(dict.fromkeys(note for result in results for note in result.notes))
    known["uri"] = storage.absolute(out)
    result = summarise(list(found.values()), first[0], settings=settings, known=known)
    store(result, list(found.values()), first[0])
    return result


def _add(found: dict[tuple[str, str, int], Predictions], entry: Predictions, run: str) -> None:
    key = (entry.method, entry.head, entry.seed)
    if key in found and entry.method == "pretrained":
        raise RunError(f"{run}: another run has its seed, {entry.seed}; runs to pool differ in `run.seed`.")
    found.setdefault(key, entry)
