"""The plan of a run: what a recipe means for a corpus, resolved and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medalign.data import manifest
from medalign.data.annotated_decode import AnnotatedDecoder
from medalign.data.annotations import Named, name_classes
from medalign.data.batches import BatchStream, BlockDecoder
from medalign.data.chat_decode import TEXTS, ChatDecoder, Text
from medalign.data.mixture import Mixture
from medalign.data.order import Order
from medalign.data.quarantine import Holes
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.errors import CorpusError, PlanError
from medalign.training.settings import Train
from medalign_core.models.multimodal.settings import Llava
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.ops.draws import draw_seed


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A resolved plan.

    Attributes:
        stream: the training micro-batches.
        validation: the validation micro-batches, each a step of its own; None where validation is off.
        validation_batches: how many of them one validation uses.
        total_steps: optimizer steps of the run.
        graphs_per_step: graphs that one step matches, None for objectives without graphs.
        contents: a hash of the rows of each split that the run reads.
    """

    stream: BatchStream
    validation: BatchStream | None
    validation_batches: int
    total_steps: int
    graphs_per_step: int | None
    contents: Mapping[str, str] = field(default_factory=dict)

    def holes(self, run: str) -> Holes:
        """Return what takes note of the rows that a run at `run` cannot read, and knows their budget."""
        return Holes(run, rows=self.stream.order.rows, max_share=self.stream.data.max_bad_share)

    def describe(self) -> dict[str, int | float | str]:
        """Return the plan as lines of (name, value), for people."""
        order, world = self.stream.order, self.stream.world
        values: dict[str, int | float | str | None] = {
            "rows": order.rows,
            "workers": world,
            "micro batch": order.micro_batch,
            "global batch": order.global_batch,
            "micro-batches per step": order.micro_batches,
            "forwards per worker and step": -(-order.micro_batches // world),
            "steps per epoch": order.steps_per_epoch,
            "total steps": self.total_steps,
            "epochs": round(self.total_steps / order.steps_per_epoch, 2),
            "rows shuffled together": order.window_steps * order.global_batch,
            "corpora": len(order.mixture.parts) if order.mixture else None,
            "graphs per step": self.graphs_per_step,
            "validation micro-batches": self.validation_batches or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def plan_run(*, seed: int, data: Data, train: Train, objective: Any, model: Any = None) -> RunPlan:
    """Resolve a recipe's parts against its corpus; no weight is opened.

    Raises:
        CorpusError: no corpus, no images of a split, or a corpus without conversations for a model that reads them.
        PlanError: the corpus is too small for a step, or for a validation micro-batch.
    """
    splits = tuple(dict.fromkeys(("train", *data.allow_splits)))
    parts = data.parts
    source = RowSource.open_all([part.uri for part in parts], splits, on_damage=data.on_damage)
    mixture = Mixture(tuple(part.weight for part in parts), source.parts) if data.mixture is not None else None
    order = Order(
        seed=seed,
        row_groups=source.sizes,
        micro_batch=train.micro_batch,
        global_batch=train.global_batch,
        shuffle_rows=data.shuffle_rows,
        mixture=mixture,
    )
    total = train.steps or (train.epochs or 0) * order.steps_per_epoch
    stream = BatchStream(order, source, data, max(1, train.workers), decoder_of(model, objective, data, seed=seed))
    validation, batches = _validation(stream, train, objective) if train.validate_every else (None, 0)
    return RunPlan(
        stream=stream,
        validation=validation,
        validation_batches=batches,
        total_steps=total,
        graphs_per_step=_graphs(objective, train),
        contents=_contents(data, splits, (train.validation_split,) if train.validate_every else ()),
    )


def name_objective(objective: Any, data: Data) -> Any:
    """Return an objective of annotated images with the classes of its corpora, and any other as it is.

    Raises:
        CorpusError: a corpus without such annotations.
        PlanError: the objective names other classes.
    """
    if not hasattr(objective, "annotation"):
        return objective
    found = _named(objective, data).classes
    if objective.classes and tuple(objective.classes) != found:
        raise PlanError(
            f"objective.classes={list(objective.classes)}, but the corpus has {list(found)}; leave the key out."
        )
    return replace(objective, classes=found)


def _named(objective: Any, data: Data) -> Named:
    splits = ("train", "val", *data.allow_splits)
    return name_classes([part.uri for part in data.parts], objective.annotation, splits)


def decoder_of(model: Any, objective: Any, data: Data, *, seed: int = 0) -> BlockDecoder | None:
    """Return what decodes rows for a model and an objective: conversations, or images with annotations.

    None is views of images.

    Raises:
        CorpusError: a multimodal model and a corpus without conversations, or one without the annotations.
    """
    if hasattr(objective, "annotation"):
        return AnnotatedDecoder(
            seed=seed,
            size=data.image_size,
            views=data.views,
            annotation=objective.annotation,
            classes=tuple(objective.classes),
            most_boxes=_named(objective, data).most_boxes,
        )
    if not isinstance(model, Llava):
        return None
    for part in data.parts:
        if manifest.read(part.uri).task not in manifest.WITH_WORDS:
            raise CorpusError(
                f"{part.uri}: a corpus of images without conversations; prepare one of format llava-med, vqa-rad or"
                " another of words."
            )
    wanted = getattr(objective, "graphs", ()) if model.text_nodes != "in_context" else ()
    texts: tuple[Text, ...] = tuple(name for name in TEXTS if name in wanted)
    return ChatDecoder(model, data.image_size, texts)


def _graphs(objective: Any, train: Train) -> int | None:
    """Return how many graphs a step has: parts of a micro-batch, or one of each of its node sets."""
    if isinstance(objective, LoGraMed):
        return len(objective.graphs) * train.global_batch // train.micro_batch
    size = getattr(objective, "graph_size", None)
    return train.global_batch // size if size else None


def _contents(data: Data, splits: tuple[str, ...], validation: tuple[str, ...]) -> dict[str, str]:
    """Return a hash of the rows of each split; in a mixture, of each split of each corpus."""
    found: dict[str, str] = {}
    for number, part in enumerate(data.parts):
        corpus = manifest.read(part.uri)
        of_part = "" if data.mixture is None else f" of data.mixture[{number}]"
        wanted = dict.fromkeys((*splits, *(validation if number == 0 else ())))
        found |= {f"{split}{of_part}": corpus.content(split) for split in wanted}
    return found


def _validation(stream: BatchStream, train: Train, objective: Any) -> tuple[BatchStream, int]:
    """Return the stream of validation: micro-batches as large as training's, or as the split allows."""
    source = RowSource.open(stream.data.parts[0].uri, (train.validation_split,), on_damage=stream.data.on_damage)
    source = replace(source, classes=stream.source.classes)  # those of the whole mixture
    rows, size = sum(source.sizes), train.micro_batch
    while size > rows or not _accepts(objective, size):
        size -= 1
        if not size:
            raise PlanError(
                f"split {train.validation_split!r} has {rows} rows, too few for one validation micro-batch;"
                " set train.validate_every=0, or prepare a larger split."
            )
    order = replace(
        stream.order,
        seed=draw_seed(stream.order.seed, "validation"),
        row_groups=source.sizes,
        micro_batch=size,
        global_batch=size,
        mixture=None,
    )
    reads = replace(stream.reads, augmented=False) if isinstance(stream.reads, AnnotatedDecoder) else stream.reads
    return BatchStream(order, source, stream.data, 1, reads), min(train.validation_batches, order.steps_per_epoch)


def _accepts(objective: Any, micro_batch: int) -> bool:
    validate = getattr(objective, "validate", None)
    if validate is None:
        return True
    try:
        validate(micro_batch)
    except ValueError:
        return False
    return True
