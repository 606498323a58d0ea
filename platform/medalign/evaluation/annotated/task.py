"""evaluate_annotated(run): predict a corpus's split, store the predictions, score them with intervals and subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from io import BytesIO
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.checkpoint.trained_module import open_trained
from medalign.data import manifest as manifests
from medalign.errors import CorpusError, UserError
from medalign.evaluation.annotated import result as results
from medalign.evaluation.annotated.classification import score_classification
from medalign.evaluation.annotated.detection import score_detection
from medalign.evaluation.annotated.examples import Example, LeftOut, read_examples
from medalign.evaluation.annotated.predicting import Progress, predict_split
from medalign.evaluation.annotated.result import AnnotatedResult, OperatingPoint
from medalign.evaluation.annotated.scored import Scored, interval, score_subgroups
from medalign.evaluation.annotated.segmentation import score_segmentation
from medalign.evaluation.annotated.settings import AnnotatedSettings
from medalign.evaluation.annotated.shifts import SHIFTS
from medalign.evaluation.lineage import seen_in_training
from medalign.evaluation.source import image_size, read_recipe
from medalign.evaluation.task import BRAND, FOLDER

TASKS = {"classification": "labels", "segmentation": "masks", "detection": "boxes"}
VALIDATION = "val"
SEEN = "seen in training"  # the attribute that makes two subgroups of the scored images
PROMPTED = "Prompted: the model was given the box of every true mask; not comparable with figures without prompts."


def evaluate_annotated(
    run: str,
    *,
    corpus: str,
    task: str,
    checkpoint: Literal["best", "latest"] = "best",
    overlap: bool = False,
    out: str = "",
    settings: AnnotatedSettings | None = None,
    progress: Progress | None = None,
) -> AnnotatedResult:
    """Predict a split with a run's model and store predictions and scores in `<run>/evaluations/<corpus>-<task>/`.

    The corpus may be another than the run's: that is evaluation out of distribution. Thresholds always come from the
    validation split of the corpus that the run was trained on.

    Args:
        run: the run's URI.
        corpus: the corpus's URI.
        task: "classification", "segmentation" or "detection".
        checkpoint: "best" or "latest".
        overlap: look for the scored images among those that the run, and the runs it goes on from, were trained on, and
            give the scores with and without them.
        out: where predictions and scores go instead.
        settings: of the split, the intervals and the metrics.
        progress: called with the number of images done.

    Raises:
        UserError: an unknown task, or a run of another one.
        RunError: no run there, or one that makes no predictions.
        CorpusError: no corpus, no such split, or annotations that do not fit the run.
    """
    settings = settings or AnnotatedSettings()
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there is: {', '.join(TASKS)}.")
    manifest = manifests.read(corpus)
    manifest.split(settings.split)
    module, objective = open_trained(run, checkpoint=checkpoint)
    if objective.annotation != TASKS[task]:
        raise UserError(f"{run}: was trained on {objective.annotation}, not on {TASKS[task]}; give its own --task.")
    classes = tuple(objective.classes)
    if task == "segmentation" and manifest.mask_classes != classes:
        raise CorpusError(f"{corpus}: its masks are of {list(manifest.mask_classes)}, the run's of {list(classes)}.")
    recipe, left_out = read_recipe(run), LeftOut()
    predict: dict[str, Any] = {"size": image_size(run), "batch": settings.batch, "left_out": left_out}
    predict["progress"] = progress
    tables = [predict_split(module, objective, corpus, settings.split, shift=settings.shift, **predict)]
    own = str(recipe["data"].get("corpus") or "")
    if task == "classification" and own and storage.exists(storage.join(own, manifests.FILE_NAME)):
        if VALIDATION in manifests.read(own).splits:
            tables.append(predict_split(module, objective, own, VALIDATION, **{**predict, "left_out": LeftOut()}))
    known: dict[str, Any] = {
        "run": storage.absolute(run),
        "corpus": storage.absolute(corpus),
        "fingerprint": manifest.fingerprint,
        "task": task,
        "checkpoint": checkpoint,
        "split": settings.split,
        "classes": classes,
        "uri": storage.absolute(out) if out else _place(run, manifest.name, task, settings.shift),
    }
    notes = [PROMPTED] if getattr(module, "is_prompted", False) else []
    notes += [f"Synthetic shift of the images: {SHIFTS[settings.shift][0]}."] if settings.shift else []
    notes += [BRAND] if settings.split in (recipe["data"].get("allow_splits") or ()) else []
    if own and storage.absolute(own) != known["corpus"]:
        notes.append("Out of distribution: the run was trained on another corpus.")
    known["seen"], gone = _seen(run, corpus, settings.split) if overlap else (None, [])
    found = _summarise(tables, known, [*notes, *gone, *left_out.notes(settings.split)], settings)
    _store(found, tables)
    return found


def rescore(uri: str, settings: AnnotatedSettings | None = None) -> AnnotatedResult:
    """Return the result that stored predictions give, with other settings perhaps; nothing is predicted or written.

    Raises:
        RunError: no evaluation there.
        CorpusError: its corpus is gone, or another one.
    """
    known = results.load(uri)
    found = settings or AnnotatedSettings(**known.settings)
    same = ("run", "corpus", "fingerprint", "task", "checkpoint", "split", "classes", "seen")
    return _summarise(_tables(uri), {name: getattr(known, name) for name in same} | {"uri": uri}, known.notes, found)


def scored_of(uri: str) -> Scored:
    """Return the statistics of an evaluation's stored predictions, for comparisons of several of them.

    Raises:
        RunError: no evaluation there.
    """
    known = results.load(uri)
    names = ("corpus", "task", "classes", "split", "seen")
    return _score(_tables(uri), {name: getattr(known, name) for name in names}, AnnotatedSettings(**known.settings))


def _place(run: str, corpus: str, task: str, shift: str) -> str:
    name = f"{corpus}-{task}-{shift}" if shift else f"{corpus}-{task}"
    return storage.join(storage.absolute(run), FOLDER, name)


def _seen(run: str, corpus: str, split: str) -> tuple[tuple[str, ...], list[str]]:
    ids, notes = seen_in_training(run, corpus, split)
    count = f"{len(ids):,} scored images" if ids else "No scored image"
    return tuple(sorted(ids)), [*notes, f"{count} found among those of the run's training and of the runs before it."]


def _marked(example: Example, is_seen: bool) -> Example:
    return replace(example, attributes={**example.attributes, SEEN: "yes" if is_seen else "no"})


def _tables(uri: str) -> list[pa.Table]:
    table = pq.read_table(BytesIO(storage.read_bytes(storage.join(uri, results.PREDICTIONS))))
    splits = dict.fromkeys(table["split"].to_pylist())
    return [table.filter(pa.compute.equal(table["split"], split)) for split in splits]


def _score(tables: Sequence[pa.Table], known: dict[str, Any], settings: AnnotatedSettings) -> Scored:
    corpus, classes = known["corpus"], known["classes"]
    examples = list(read_examples(corpus, known["split"], size=None, fit="whole", left_out=LeftOut()))
    if known["seen"]:
        examples = [_marked(each, each.id in known["seen"]) for each in examples]
    try:
        if known["task"] == "classification":
            validation = tables[1] if len(tables) > 1 else None
            attributes = {each.id: each.attributes for each in examples}
            return score_classification(tables[0], validation, classes, attributes, settings=settings)
        predicted = dict(zip(tables[0]["id"].to_pylist(), tables[0]["predicted"].to_pylist(), strict=True))
        if known["task"] == "segmentation":
            return score_segmentation(examples, predicted, classes, settings=settings)
        return score_detection(examples, predicted, classes)
    except ValueError as error:
        raise CorpusError(f"{corpus}: the {known['split']} split cannot be scored: {error}.") from error


def _summarise(
    tables: Sequence[pa.Table], known: dict[str, Any], notes: Sequence[str], settings: AnnotatedSettings
) -> AnnotatedResult:
    scored = _score(tables, known, settings)
    groups = scored.groups

    def point(entry: OperatingPoint, sensitivity: Any, specificity: Any) -> OperatingPoint:
        both = (interval(each, groups, settings) for each in (sensitivity, specificity))
        return replace(entry, **dict(zip(("sensitivity", "specificity"), both, strict=True)))  # type: ignore[arg-type]

    return AnnotatedResult(
        **known,
        units=scored.units,
        count=len(scored.ids),
        groups=len(set(groups)),
        level=settings.level,
        replicates=settings.replicates,
        primary=scored.primary,
        metrics={name: interval(each, groups, settings) for name, each in scored.statistics.items()},
        per_class={
            name: {metric: interval(each, groups, settings) for metric, each in statistics.items()}
            for name, statistics in scored.per_class.items()
        },
        subgroups=score_subgroups(scored, settings),
        operating_points=tuple(point(*each) for each in scored.operating_points),
        reliability=scored.reliability,
        notes=tuple(dict.fromkeys((*notes, *scored.notes))),
        settings=asdict(settings),
    )


def _store(found: AnnotatedResult, tables: Sequence[pa.Table]) -> None:
    sink = BytesIO()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    storage.write_bytes(storage.join(found.uri, results.PREDICTIONS), sink.getvalue())
    storage.write_bytes(storage.join(found.uri, results.SCORES), found.dumps().encode())
