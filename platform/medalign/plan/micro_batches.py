"""The micro-batch that a rehearsal runs: of the recipe's own sizes, with the token lengths of its corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from medalign.data.annotated_decode import AnnotatedDecoder
from medalign.data.chat_decode import ChatDecoder
from medalign.errors import PlanError
from medalign.plan.run_plan import RunPlan
from medalign.recipe import Recipe
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED_WINDOWS, SAMPLED_ROWS = 1, 512


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of the texts of a row: means, and those of the longest micro-batch that was looked at.

    Attributes:
        mean: by text: `conversation`, `learnt`, `answer`, `extended`.
        worst: the same, of the micro-batch with the most tokens; a row's mean there.
        longest: the longest conversation of that micro-batch.
        rows: how many rows were looked at; 0 where the figures are assumed.
    """

    mean: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    longest: int = 0
    rows: int = 0

    @classmethod
    def assumed(cls, tokens: Mapping[str, float]) -> Lengths:
        """Return lengths that are given: every row has them."""
        return cls(mean=dict(tokens), worst=dict(tokens), longest=int(tokens.get("conversation", 0)))

    def per_row(self, texts: tuple[str, ...]) -> float:
        """Return the mean tokens that a language model reads of a row with these texts."""
        return sum(self.mean.get(name, 0.0) for name in texts)


def measure_lengths(plan: RunPlan) -> Lengths | None:
    """Return the token lengths of the first rows that a run will read; None for a run without words."""
    reads = plan.stream.reads
    if not isinstance(reads, ChatDecoder):
        return None
    order, found = plan.stream.order, []
    for window in order.windows(0, min(plan.total_steps, order.steps_per_epoch))[:SAMPLED_WINDOWS]:
        for block in plan.stream.read_window(window):
            found.append(_lengths(reads(block)))
            if len(found) * order.micro_batch >= SAMPLED_ROWS:
                break
    worst = max(found, key=lambda each: each["total"].sum())
    every = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    names = ("conversation", "learnt", *reads.texts)
    return Lengths(
        mean={name: float(every[name].mean()) for name in names},
        worst={name: float(worst[name].mean()) for name in names},
        longest=int(worst["conversation"].max()),
        rows=len(every["conversation"]),
    )


def micro_batch(recipe: Recipe, size: int, *, module: Any, lengths: Lengths | None, plan: RunPlan | None) -> Any:
    """Return a micro-batch of `size` rows whose images have no values.

    Args:
        recipe: what is trained.
        size: rows.
        module: the objective's, for the tokens of an image.
        lengths: of the words, where there are any.
        plan: of the corpus, where there is one.

    Raises:
        PlanError: a model of words and no lengths, or annotations and no corpus to say which.
    """
    import torch

    from medalign_core.types import DrawKey, ImageBatch

    known: dict[str, Any] = {
        "valid": torch.ones(size, dtype=torch.bool),
        "ids": torch.arange(size),
        "key": DrawKey(recipe.run.seed, 0, 0),
    }
    if isinstance(recipe.model, Llava):
        return _chat(recipe, module.model, lengths, known)
    if hasattr(recipe.objective, "annotation"):
        return _annotated(recipe, size, plan, known)
    side, small = recipe.data.image_size, recipe.data.views.small
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0])
    extra: dict[str, Any] = {}
    if small:
        extra = {
            "small_images": _pixels(size, small.count, 3, small.size, small.size),
            "small_boxes": boxes.expand(size, small.count, 4).clone(),
            "small_flipped": torch.zeros(size, small.count, dtype=torch.bool),
        }
    return ImageBatch(
        images=_pixels(size, 2, 3, side, side),
        boxes=boxes.expand(size, 2, 4).clone(),
        flipped=torch.zeros(size, 2, dtype=torch.bool),
        labels=torch.full((size,), -1),
        **known,
        **extra,
    )


def _chat(recipe: Recipe, model: Any, lengths: Lengths | None, known: dict[str, Any]) -> Any:
    import torch

    from medalign_core.models.multimodal.batch import IGNORED, ChatBatch

    if lengths is None or "conversation" not in lengths.worst:
        raise PlanError("a model of words needs token lengths: give a corpus, --like NAME, or --tokens conversation=N.")
    mean, limit = lengths.worst, recipe.model.max_length
    size, image, count = len(known["ids"]), model.image_token, model.image_tokens
    wide = max(min(max(lengths.longest, int(mean["conversation"])), limit), count + 2)
    total = max(round(mean["conversation"] * size), size * (count + 2))
    spread = _spread(min(total, wide * size), size, wide)
    tokens = torch.full((size, wide), 5)
    tokens[:, 1 : count + 1] = image
    attended = torch.arange(wide)[None, :] < torch.tensor(spread)[:, None]
    labels = torch.full((size, wide), IGNORED)
    learnt = max(1, round(mean.get("learnt", mean["conversation"] - count)))
    for row, length in enumerate(spread):
        labels[row, max(count + 1, length - learnt) : length] = 5
    texts: dict[str, Any] = {}
    for name in ("answer", "extended"):
        if name in _texts(recipe):
            length = max(1, round(mean.get(name, learnt)))
            texts[f"{name}_tokens"] = torch.full((size, length), 5)
            texts[f"{name}_attended"] = torch.ones(size, length, dtype=torch.bool)
    side = recipe.data.image_size
    return ChatBatch(
        images=_pixels(size, 3, side, side),
        has_image=known["valid"],
        conversation_tokens=tokens,
        conversation_labels=labels,
        conversation_attended=attended,
        image_ids=torch.arange(size),
        answer_ids=torch.arange(size),
        **texts,
        **known,
    )


def _annotated(recipe: Recipe, size: int, plan: RunPlan | None, known: dict[str, Any]) -> Any:
    import torch

    from medalign_core.types import AnnotatedBatch

    reads = plan.stream.reads if plan else None
    if not isinstance(reads, AnnotatedDecoder):
        raise PlanError("an objective of annotated images is planned for a corpus: give data.corpus=URI.")
    side, objective = recipe.data.image_size, recipe.objective
    masked = side if objective.annotation == "masks" else 0
    most = reads.most_boxes if objective.annotation == "boxes" else 0
    box = torch.tensor([8.0, 8.0, side / 2, side / 2])
    return AnnotatedBatch(
        images=_pixels(size, 3, side, side),
        labels=torch.zeros(size, dtype=torch.long),
        masks=torch.zeros(size, masked, masked, dtype=torch.uint8),
        boxes=box.expand(size, most, 4).clone(),
        box_labels=torch.zeros(size, most, dtype=torch.long),
        **known,
    )


def _texts(recipe: Recipe) -> tuple[str, ...]:
    """Return the texts that stand apart: as `decoder_of` has it."""
    if recipe.model.text_nodes == "in_context":
        return ()
    return tuple(name for name in ("answer", "extended") if name in getattr(recipe.objective, "graphs", ()))


def texts_read(recipe: Recipe) -> tuple[str, ...]:
    """Return the texts that the language model reads of a row."""
    apart = () if recipe.model.text_nodes == "embeddings" else _texts(recipe)
    return ("conversation", *apart)


def _spread(total: int, size: int, wide: int) -> list[int]:
    """Return `size` lengths that sum to about `total`, the first of them `wide`."""
    rest = max(size - 1, 1)
    others = max((total - wide) // rest, 2)
    return [wide, *[min(others, wide)] * (size - 1)]


def _lengths(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {"conversation": np.array([len(ids) for ids in arrays["conversation_tokens"]])}
    found["learnt"] = np.array([int((np.asarray(ids) >= 0).sum()) for ids in arrays["conversation_labels"]])
    found["total"] = found["conversation"].copy()
    for name in ("answer", "extended"):
        if f"{name}_tokens" in arrays:
            found[name] = np.array([len(ids) for ids in arrays[f"{name}_tokens"]])
            found["total"] = found["total"] + found[name]
    return found


def _pixels(*shape: int) -> Tensor:
    import torch

    return torch.empty(*shape, dtype=torch.uint8, device="meta")
