"""One cell of the table: an arm at a share of the data with one seed, trained, asked, and stored as JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import BATCH, STEPS, Arm
from cached_features import numbered, open_over
from pictures import Picture
from statements import Statement, statements_of
from torch import Tensor
from words import MAX_LENGTH, conversation, tokens_of, word_language_model, word_tokenizer

from medalign.data.chat import IGNORE, answer_text
from medalign.data.chat_decode import stable_id
from medalign.data.dialogue import IMAGE
from medalign.data.subset import nested
from medalign.evaluation.vqa.generation import generate_texts
from medalign.multimodal_models import Opened
from medalign_core.models.multimodal.batch import ChatBatch
from medalign_core.models.multimodal.settings import Llava
from medalign_core.ops.draws import draw_seed
from medalign_core.types import DrawKey

WATCHED = 20  # steps at either end whose statistics are kept
ASKED_AT_ONCE, ANSWER = 64, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What all cells read: the pictures, in order, and their features, a black image's last."""

    pictures: Sequence[Picture]
    features: Tensor

    def places(self, split: str) -> list[int]:
        """Return the numbers of a split's pictures."""
        return [n for n, picture in enumerate(self.pictures) if picture.split == split]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a cell stands; alpha and rate as tuned, or on trial."""

    arm: str
    share: float
    seed: int
    rate: float
    alpha: float
    split: str = "test"

    @property
    def path(self) -> str:
        """Where it is stored, below the results."""
        sizes = f"rate{self.rate:g}-alpha{self.alpha:g}-{STEPS}steps"
        words = f"{self.arm}-{self.share:g}-seed{self.seed}-{sizes}-{self.split}"
        return f"cells/{words.replace(' ', '_').replace(',', '').replace('+', 'plus')}.json"


def run_cell(cell: Cell, arm: Arm, material: Material, out: Path) -> dict[str, Any]:
    """Return a cell's answers and statistics: from its file, or by training."""
    place = out / cell.path
    if place.exists():
        return dict(json.loads(place.read_text()))
    began = time.perf_counter()
    torch.manual_seed(draw_seed(cell.seed, "model"))
    opened = _open(arm, material)
    trained = _train(cell, arm, opened, material)
    found = {**trained, **_ask(opened, material, cell), "seconds": time.perf_counter() - began}
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_suffix(".part")
    aside.write_text(json.dumps(found))
    aside.rename(place)
    return found


def _open(arm: Arm, material: Material) -> Opened:
    every = [s for picture in material.pictures for s in statements_of(picture)]
    tokenizer = word_tokenizer(text for s in every for text in (s.question, s.answer, s.extended))
    nodes = "packed" if arm.texts else "in_context"
    settings = Llava(text_nodes=nodes, attention="sdpa", loss_chunks=1, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    return open_over(material.features, word_language_model(tokenizer), tokenizer, settings)


def _train(cell: Cell, arm: Arm, opened: Opened, material: Material) -> dict[str, Any]:
    module = arm.at(cell.alpha).build(opened.model).train()
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=cell.rate, weight_decay=0.0)
    chosen = _chosen(material, cell)
    tokens, kept = 0, []
    steps = STEPS
    for step, batch in enumerate(_batches(cell, arm, opened, material, chosen)):
        for group in optimizer.param_groups:
            group["lr"] = cell.rate * _schedule(step, steps)
        loss, stats = module(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        tokens += _read(batch)
        kept.append({name: float(value) for name, value in stats.items()})
        if step == WATCHED and arm.steps == "equal FLOPs":
            steps = round(STEPS * _cost_of_alignment(cell, opened, material, chosen) / (tokens / (step + 1)))
        if step + 1 >= steps:
            break
    means = {
        f"{end}_{name}": float(np.mean([each[name] for each in part]))
        for end, part in (("first", kept[:WATCHED]), ("last", kept[-WATCHED:]))
        for name in kept[0]
    }
    return {"steps": steps, "tokens": tokens, "pictures": len(chosen), "stats": means}


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 8) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def _chosen(material: Material, cell: Cell) -> list[int]:
    places = material.places("train")
    names = [material.pictures[n].name for n in places]
    return [n for n, kept in zip(places, nested(names, cell.share, seed=cell.seed), strict=True) if kept]


def _batches(cell: Cell, arm: Arm, opened: Opened, material: Material, chosen: Sequence[int]) -> Iterator[ChatBatch]:
    """Yield batches without end: a permutation an epoch, the questions of a picture in another order each time."""
    rows = [(n, extended) for n in chosen for extended in ((False, True) if arm.learns_extended else (False,))]
    step, epoch, waiting = 0, 0, []  # type: ignore[var-annotated]
    while True:
        draws = np.random.default_rng([cell.seed, epoch])
        for place in draws.permutation(len(rows)):
            n, extended = rows[place]
            asked = statements_of(material.pictures[n])
            waiting.append((n, [asked[k] for k in draws.permutation(len(asked))], extended))
            if len(waiting) == BATCH:
                yield _batch(waiting, arm.texts, opened, DrawKey(cell.seed, step, 0))
                step, waiting = step + 1, []
        epoch += 1


def _batch(
    rows: Sequence[tuple[int, list[Statement], bool]], texts: tuple[str, ...], opened: Opened, key: DrawKey
) -> ChatBatch:
    tokenizer, slot = opened.tokenizer, opened.slot
    found = [tokens_of(conversation(asked, extended=extended), tokenizer, slot) for _, asked, extended in rows]
    tokens, attended = _padded([each.ids for each in found], 0)
    labels, _ = _padded([each.labels for each in found], IGNORE)
    apart: dict[str, Tensor] = {}
    for text in texts:
        said = [answer_text(conversation(asked, extended=text == "extended")) for _, asked, _ in rows]
        ids = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in said]
        apart[f"{text}_tokens"], apart[f"{text}_attended"] = _padded(ids, 0)
    return ChatBatch(
        images=torch.from_numpy(numbered([n for n, _, _ in rows])),
        has_image=torch.ones(len(rows), dtype=torch.bool),
        conversation_tokens=tokens,
        conversation_labels=labels,
        conversation_attended=attended,
        **apart,
        image_ids=torch.tensor([n for n, _, _ in rows]),
        answer_ids=torch.tensor([stable_id(_answers(asked)) for _, asked, _ in rows]),
        valid=torch.ones(len(rows), dtype=torch.bool),
        ids=torch.tensor([n for n, _, _ in rows]),
        key=key,
    )


def _answers(asked: Sequence[Statement]) -> str:
    """Return the answers whatever their order: two pictures with the same ones are duplicates in a graph."""
    return " . ".join(sorted(f"{each.question} {each.answer}" for each in asked))


def _padded(rows: Sequence[Sequence[int]], filling: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])
    return tokens, torch.tensor([[n < len(row) for n in range(longest)] for row in rows])


def _read(batch: ChatBatch) -> int:
    """Return how many tokens the language model reads."""
    masks = (batch.conversation_attended, batch.answer_attended, batch.extended_attended)
    return sum(int(mask.sum()) for mask in masks if mask is not None)


def _cost_of_alignment(cell: Cell, opened: Opened, material: Material, chosen: Sequence[int]) -> float:
    """Return the tokens that the aligned arms read in a step, a mean over the first steps."""
    arm = Arm(objective=None, texts=("answer", "extended"))
    batches = _batches(cell, arm, opened, material, chosen)
    return float(np.mean([_read(next(batches)) for _ in range(WATCHED)]))


def _ask(opened: Opened, material: Material, cell: Cell) -> dict[str, Any]:
    """Return the answers about each picture, a black one, and another picture of its kind's; and retrieval."""
    opened.model.eval()
    places = material.places(cell.split)
    asked = [(n, each) for n in places for each in statements_of(material.pictures[n])]
    dealt = _dealt(material, places)
    black = len(material.pictures)
    ways = {"answers": [n for n, _ in asked]}
    if cell.split == "test":
        ways |= {"blank": [black] * len(asked), "shuffled": [dealt[n] for n, _ in asked]}
    prompts = [[{"role": "user", "content": f"{IMAGE}\n{each.question}"}] for _, each in asked]
    found: dict[str, Any] = {}
    for way, numbers in ways.items():
        texts = generate_texts(opened, numbered(numbers), prompts, max_new_tokens=ANSWER, batch=ASKED_AT_ONCE)
        found[way] = {each.id: text for (_, each), text in zip(asked, texts, strict=True)}
    return found | {"retrieval": _retrieval(opened, material, places)}


def _dealt(material: Material, places: Sequence[int]) -> dict[int, int]:
    """Return for each picture another one of its kind, each once."""
    found: dict[int, int] = {}
    for kind in dict.fromkeys(material.pictures[n].kind for n in places):
        order = np.random.default_rng(0).permutation([n for n in places if material.pictures[n].kind == kind])
        found |= dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return found


@torch.no_grad()
def _retrieval(opened: Opened, material: Material, places: Sequence[int]) -> dict[str, float]:
    """Return how often an image's node is nearest, by centred cosine, to its own answers among the different ones."""
    rows = [(n, statements_of(material.pictures[n]), False) for n in places]
    names = [_answers(asked) for _, asked, _ in rows]
    batch = _batch(rows, ("answer",), opened, DrawKey(0, 0, 0))
    model: Any = opened.model
    image = model.project(batch.images).mean(dim=1)
    text = model._text_nodes(batch.answer_tokens, batch.answer_attended)
    different = list(dict.fromkeys(names))
    text = text[[names.index(each) for each in different]]
    image, text = (torch.nn.functional.normalize(each - each.mean(dim=0), dim=1) for each in (image, text))
    nearest = (image @ text.T).argmax(dim=1).tolist()
    right = np.mean([different[k] == name for k, name in zip(nearest, names, strict=True)])
    return {"hits_at_1": float(right), "candidates": len(different)}
