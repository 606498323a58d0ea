"""evaluate(run): probe a run's frozen encoder on a corpus, beside the same encoder untrained and beside raw pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from torch import nn

from medalign import storage
from medalign.build import random_encoder
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.data import manifest as manifests
from medalign.errors import CorpusError, UserError
from medalign.evaluation.compare import compare, score
from medalign.evaluation.extract import features, frozen, pixels
from medalign.evaluation.labelled import LeftOut, check_splits, gather, labelled_batches
from medalign.evaluation.probe import ProbeSettings, Split, probe
from medalign.evaluation.result import PREDICTIONS, SCORES, EvaluationResult, Predictions, Samples, to_parquet
from medalign.evaluation.source import image_size, read_recipe

TASKS = ("probe",)
FOLDER = "evaluations"
ONE_RUN = (
    "One pretraining run meets several untrained encoders: other pretraining runs may differ from it (see `pool`)."
)
BRAND = "The run was allowed to train on the split `test`: if that was this corpus, these scores prove nothing."

Source = tuple[str, int]  # the method and its seed
PIXELS: Source = ("pixels", 0)
SplitFeatures = dict[Source, Split]


@dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """Predictions of every encoder on a corpus's test split, before any score; `known` are fields of the result."""

    predictions: tuple[Predictions, ...]
    samples: Samples
    known: dict[str, Any]


def evaluate(
    run: str,
    *,
    corpus: str,
    task: str = "probe",
    checkpoint: Literal["best", "latest"] = "best",
    seeds: Sequence[int] | None = None,
    settings: ProbeSettings | None = None,
) -> EvaluationResult:
    """Probe a run's encoder and store predictions and scores in `<run>/evaluations/<corpus>-<task>/`.

    The encoder stays frozen, which is checked, and images go through the deterministic test transform. Heads are
    fitted on the corpus's `train` split, chosen on `val` (or by grouped cross-validation) and scored on `test`.

    Args:
        run: the run's URI.
        corpus: the corpus's URI.
        task: "probe".
        checkpoint: "best" or "latest".
        seeds: of the untrained encoders to compare with; if None the run's own, that is the encoder it started from.
        settings: grids, folds and intervals.

    Raises:
        UserError: an unknown task.
        RunError: no run there.
        CorpusError: no corpus, no test split, or no labels; with the way out.
        FrozenError: the encoder changed on the way.
    """
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there is: {', '.join(TASKS)}.")
    settings = settings or ProbeSettings()
    manifest = manifests.read(corpus)
    check_splits(manifest, corpus)
    recipe = read_recipe(run)
    own = int(recipe["run"]["seed"])
    encoders: dict[Source, nn.Module] = {("pretrained", own): open_encoder(run, checkpoint=checkpoint)}
    encoders |= {("random", seed): random_encoder(recipe, seed) for seed in ((own,) if seeds is None else seeds)}
    probed = probe_corpus(encoders, corpus, size=image_size(run), settings=settings)
    cautions = [BRAND] if "test" in (recipe["data"].get("allow_splits") or ()) else []
    if len(encoders) > 2:
        cautions.append(ONE_RUN)
    known = {
        **probed.known,
        "run": storage.absolute(run),
        "task": task,
        "checkpoint": checkpoint,
        "notes": (*cautions, *probed.known["notes"]),
        "uri": storage.join(storage.absolute(run), FOLDER, f"{manifest.name}-{task}"),
    }
    result = summarise(probed.predictions, probed.samples, settings=settings, known=known)
    store(result, probed.predictions, probed.samples)
    return result


def probe_corpus(
    encoders: Mapping[Source, nn.Module], corpus: str, *, size: int, settings: ProbeSettings | None = None
) -> Probed:
    """Probe encoders, and raw pixels beside them, on a corpus. Nothing is written.

    Args:
        encoders: by method and seed, such as {("pretrained", 0): encoder}.
        corpus: the corpus's URI.
        size: images are decoded to (3, size, size).
        settings: grids and folds.

    Raises:
        CorpusError: no corpus, no test split, or no labels; with the way out.
        FrozenError: an encoder changed on the way.
    """
    settings = settings or ProbeSettings()
    manifest = manifests.read(corpus)
    check_splits(manifest, corpus)
    names = [name for name in ("train", "val", "test") if name in manifest.splits and manifest.splits[name].classes]
    notes: list[str] = []
    splits: dict[str, SplitFeatures] = {}
    for name in names:
        found, left_out = _read_split(
            encoders, corpus, name, classes=manifest.classes, size=size, pixel_size=settings.pixel_size
        )
        notes += left_out.notes(name)
        if found:
            splits[name] = found
    if missing := {"train", "test"} - splits.keys():
        raise CorpusError(
            f"{corpus}: no labelled image of the {min(missing)!r} split can be read; validate the corpus."
        )
    predictions = _predict(splits, notes, classes=len(manifest.classes), settings=settings)
    samples = {name: split[PIXELS].samples for name, split in splits.items()}
    known = {
        "corpus": storage.absolute(corpus),
        "fingerprint": manifest.fingerprint,
        "classes": manifest.classes,
        "rows": {name: len(s.ids) for name, s in samples.items()},
        "groups": {name: len(np.unique(s.groups)) for name, s in samples.items()},
        "selection": _selection(splits, settings),
        "notes": tuple(notes),
    }
    return Probed(predictions=predictions, samples=samples["test"], known=known)


def summarise(
    predictions: Sequence[Predictions], samples: Samples, *, settings: ProbeSettings, known: Mapping[str, Any]
) -> EvaluationResult:
    """Return the result that follows from predictions; `known` are the fields that do not."""
    replicates, level, seed = settings.replicates, settings.level, settings.seed
    return EvaluationResult(
        **known,
        level=level,
        replicates=replicates,
        scores=score(predictions, samples, replicates=replicates, level=level, seed=seed),
        comparisons=compare(predictions, samples, replicates=replicates, level=level, seed=seed),
    )


def store(result: EvaluationResult, predictions: Sequence[Predictions], samples: Samples) -> None:
    """Write predictions and, last, scores to `result.uri`."""
    data = to_parquet(predictions, samples, result.classes)
    storage.write_bytes(storage.join(result.uri, PREDICTIONS), data)
    storage.write_bytes(storage.join(result.uri, SCORES), result.dumps().encode())


def _read_split(
    encoders: Mapping[Source, nn.Module],
    corpus: str,
    split: str,
    *,
    classes: tuple[str, ...],
    size: int,
    pixel_size: int,
) -> tuple[SplitFeatures, LeftOut]:
    """Return the features of every labelled image under every source, in one pass; empty where there is no image."""
    left_out, samples = LeftOut(), []
    found: dict[Source, list[ndarray]] = {source: [] for source in (*encoders, PIXELS)}
    with ExitStack() as held:
        for encoder in encoders.values():
            held.enter_context(frozen(encoder))
        for batch in labelled_batches(corpus, split, classes=classes, size=size, left_out=left_out):
            samples.append(batch.samples)
            for source, encoder in encoders.items():
                found[source].append(features(encoder, batch.images))
            found[PIXELS].append(pixels(batch.images, size=pixel_size))
    if not samples:
        return {}, left_out
    whole = gather(samples)
    return {source: Split(features=np.concatenate(parts), samples=whole) for source, parts in found.items()}, left_out


def _predict(
    splits: Mapping[str, SplitFeatures], notes: list[str], *, classes: int, settings: ProbeSettings
) -> tuple[Predictions, ...]:
    predictions: list[Predictions] = []
    for method, seed in splits["train"]:
        of = {name: split[method, seed] for name, split in splits.items()}
        train, test, validation = of["train"], of["test"], of.get("val")
        found = probe(train, test, classes=classes, validation=validation, settings=settings, method=method, seed=seed)
        predictions += found.predictions
        notes += found.notes
    return tuple(predictions)


def _selection(splits: Mapping[str, SplitFeatures], settings: ProbeSettings) -> str:
    if "val" in splits:
        return "balanced accuracy on the val split"
    return f"balanced accuracy over up to {settings.folds} cross-validation folds of the train split, groups kept whole"
