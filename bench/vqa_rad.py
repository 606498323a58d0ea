"""VQA-RAD itself: converted, a small model fine-tuned and asked, and scored beside the floors, on two splits.

python bench/vqa_rad.py --data FOLDER [--out runs/vqa_rad] [--minutes 40] [--layers 30] [--write docs/results.md]

FOLDER is VQA-RAD's: `vqa_rad.json` and `images`. The standard split is as published, where 202 of 203 test images are
training images too; the grouped one is drawn anew by image. SmolLM2-135M with low-rank updates (its first `--layers`
layers) and a projector over frozen, cached features of EfficientNet-Lite0. Steps are as many as the budget of CPU time
allows by what a step is measured to take, so that a busy machine trains as long as a quiet one; the step that is kept
is chosen by the loss on validation images carved out of training. Splits that are done are not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cached_features import encode, numbered, open_over
from torch import Tensor

from medalign import prepare
from medalign.byte_language_model import TEMPLATE
from medalign.cluster import ensure_ray
from medalign.data import chat
from medalign.data.reader import read_rows
from medalign.evaluation.vqa.generation import choice_log_likelihoods, generate_texts, likeliest
from medalign.evaluation.vqa.predictions import (
    BLANK,
    CANDIDATES,
    GREEDY,
    SHUFFLED,
    Predictions,
    write_predictions,
)
from medalign.evaluation.vqa.questions import Question, read_questions
from medalign.evaluation.vqa.settings import VqaSettings
from medalign.evaluation.vqa.task import evaluate_predictions
from medalign.multimodal_models import Opened
from medalign.packaged_language_model import packaged_language_model
from medalign_core.models.multimodal.batch import ChatBatch
from medalign_core.models.multimodal.settings import Llava, LoRA
from medalign_core.types import DrawKey

SPLITS: dict[str, dict[str, Any]] = {
    "standard": {"fractions": {"val": 0.15}},
    "grouped": {"fractions": {"val": 0.1, "test": 0.2}},
}
SIDE, BATCH, RATE, RANK = 4, 8, 5e-4, 16
MAX_LENGTH, ANSWER = 256, 10
MEASURED, CHECKS, MAX_EPOCHS = 4, 4, 8  # steps that are timed; looks at validation; no more epochs than these
TRAINING_SHARE = 0.65  # of a split's budget; the rest is for validation and answers
MARKERS = ("<!-- vqa_rad -->", "<!-- /vqa_rad -->")


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A split's questions by part, and what shows their images.

    Attributes:
        questions: part ("train", "val", "test") -> questions.
        turns: part -> their conversations.
        numbers: image -> its row of the features.
        features: of all images, a black one's last.
    """

    questions: dict[str, tuple[Question, ...]]
    turns: dict[str, list[Any]]
    numbers: dict[str, int]
    features: Tensor

    def images(self, part: str) -> list[int]:
        """Return the row of the features of each question of a part."""
        return [self.numbers[question.group] for question in self.questions[part]]


def main() -> None:
    """Convert, train, answer, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/vqa_rad"))
    parser.add_argument(
        "--minutes", type=float, default=40.0, help="CPU time of training and answers, both splits together"
    )
    parser.add_argument("--layers", type=int, default=30, help="of SmolLM2's 30")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replaces the text between the table's markers")
    given = parser.parse_args()
    began, parts = time.perf_counter(), []
    for name in SPLITS:
        corpus, place = _prepare(given.data, given.out, name), given.out / name / "predictions.jsonl"
        if not place.exists():
            _run(corpus, place, layers=given.layers, seconds=given.minutes * 60 / len(SPLITS), cache=given.out)
        result = evaluate_predictions([str(place)], corpus=corpus, settings=VqaSettings(split="test"))
        whole = ", ".join(
            f"{s.model} ({s.decoding}) {s.metrics['score'].estimate:.3f}" for s in result.scores if "score" in s.metrics
        )  # noqa: E501
        told = (place.parent / "training.txt").read_text()
        parts.append(f"**{name} split**\n\n{result.markdown()}\nScore as published: {whole}.\n\n{told}")
    text = "\n".join(parts).replace(f"{Path.cwd()}/", "")
    print(f"\n{time.perf_counter() - began:.0f} s in all\n\n{text}", flush=True)
    if given.write:
        _write(given.write, text)


def _prepare(data: Path, out: Path, name: str) -> str:
    corpus = out / "corpora" / name
    if not (corpus / "manifest.json").exists():
        import ray

        ensure_ray()
        options = {"split": name}
        source = str(data / "vqa_rad.json")
        prepare(source, format="vqa-rad", out=str(corpus), name=f"vqa_rad_{name}", options=options, **SPLITS[name])
        ray.shutdown()  # what follows needs no cluster
    return str(corpus)


def _run(corpus: str, place: Path, *, layers: int, seconds: float, cache: Path) -> None:
    """Train, answer, store."""
    began = time.process_time()
    torch.manual_seed(0)
    material = _material(corpus, cache)
    opened = _open(material.features, layers)
    weights = [p for p in opened.model.parameters() if p.requires_grad]
    told = _train(opened, material, weights, seconds=TRAINING_SHARE * seconds)
    found = _answers(opened, material, model=f"SmolLM2, {layers} layers")
    trained = f"{sum(p.numel() for p in weights):,} trained weights"
    place.parent.mkdir(parents=True, exist_ok=True)
    (place.parent / "training.txt").write_text(
        f"{told}; {trained}; {time.process_time() - began:.0f} s of CPU time, training and answers.\n"
    )
    write_predictions(str(place), found)


def _material(corpus: str, cache: Path) -> Material:
    questions, turns = {}, {}
    pictures: dict[str, bytes] = {}
    for part in ("train", "val", "test"):
        questions[part], turns[part] = read_questions(corpus, part), []
        for rows in read_rows(corpus, part, ("group", "image", "conversations")):
            turns[part] += rows["conversations"].to_pylist()
            pictures |= dict(zip(rows["group"].to_pylist(), rows["image"].to_pylist(), strict=True))
    names = sorted(pictures)
    features = encode([pictures[name] for name in names], side=SIDE, cache=cache / f"features_{SIDE}.npy")
    if len(features) != len(names) + 1:
        raise SystemExit(f"{cache}: features of {len(features) - 1} images for {len(names)}; delete them.")
    numbers = {name: n for n, name in enumerate(names)}
    return Material(questions=questions, turns=turns, numbers=numbers, features=features)


def _open(features: Tensor, layers: int) -> Opened:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(packaged_language_model())
    causal: Any = AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa")
    causal.model.layers = causal.model.layers[:layers]
    causal.config.num_hidden_layers = layers
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = TEMPLATE  # its own, without the sentence that says who it is
    settings = Llava(
        stage="vqa",
        text_nodes="in_context",
        attention="sdpa",
        loss_chunks=1,
        max_length=MAX_LENGTH,
        lora=LoRA(rank=RANK, alpha=2.0 * RANK),
    )
    return open_over(features, causal, tokenizer, settings)


def _train(opened: Opened, material: Material, weights: list[Tensor], *, seconds: float) -> str:
    """Train within the time, keep the step of the lowest validation loss; return what was done."""
    model = opened.model.train()
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    most = MAX_EPOCHS * len(material.turns["train"]) // BATCH
    steps, tokens, began, best, kept = (
        most,
        0,
        time.process_time(),
        math.inf,
        (0, [w.detach().clone() for w in weights]),
    )
    losses: list[str] = []
    for step, batch in enumerate(_batches(opened, material, "train", endless=True), 1):
        if step == MEASURED + 1:  # the first steps say how many there is time for
            steps = min(most, max(MEASURED + 1, int(seconds * MEASURED / (time.process_time() - began))))
            print(f"{tokens / (time.process_time() - began):.0f} tokens/s in training: {steps} steps", flush=True)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / 10) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))
        output = model(batch)
        loss = output.ar_loss_sum / output.ar_tokens.clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        tokens += int(batch.conversation_attended.sum())
        if step > MEASURED and (step % max(1, steps // CHECKS) == 0 or step == steps):
            found = _loss(opened, material)
            losses.append(f"{found:.2f}")
            print(f"step {step}: validation loss {found:.3f}, {time.process_time() - began:.0f} s", flush=True)
            if found < best:
                best, kept = found, (step, [w.detach().clone() for w in weights])
        if step >= steps:
            break
    with torch.no_grad():
        for weight, saved in zip(weights, kept[1], strict=True):
            weight.copy_(saved)
    epochs = steps * BATCH / len(material.turns["train"])
    speed = tokens / (time.process_time() - began)
    return (
        f"{steps} steps of {BATCH} questions ({epochs:.1f} epochs, {speed:.0f} tokens/s with validation); "
        f"validation loss {', '.join(losses)}; step {kept[0]} kept"
    )


@torch.no_grad()
def _loss(opened: Opened, material: Material) -> float:
    opened.model.eval()
    total, count = 0.0, 0
    for batch in _batches(opened, material, "val"):
        output = opened.model(batch)
        total, count = total + float(output.ar_loss_sum), count + int(output.ar_tokens)
    opened.model.train()
    return total / count


def _batches(opened: Opened, material: Material, part: str, *, endless: bool = False) -> Iterator[ChatBatch]:
    """Yield a part's questions once, or in a new seeded order each epoch."""
    turns, images, epoch = material.turns[part], material.images(part), 0
    while True:
        order = np.random.default_rng(epoch).permutation(len(turns)) if endless else np.arange(len(turns))
        for start in range(0, len(order) - (BATCH - 1) * endless, BATCH):
            places = order[start : start + BATCH].tolist()
            yield _batch(opened, [turns[n] for n in places], [images[n] for n in places], DrawKey(0, epoch, start))
        if not endless:
            return
        epoch += 1


def _batch(opened: Opened, turns: Sequence[Any], images: Sequence[int], key: DrawKey) -> ChatBatch:
    written = [chat.write_template(each, opened.tokenizer) for each in turns]
    found = [chat.tokenise(each, opened.tokenizer, max_length=MAX_LENGTH, image=opened.slot) for each in written]
    longest, count = max(len(each.ids) for each in found), len(found)
    tokens = torch.tensor([[*each.ids, *[0] * (longest - len(each.ids))] for each in found])
    labels = torch.tensor([[*each.labels, *[chat.IGNORE] * (longest - len(each.ids))] for each in found])
    lengths = torch.tensor([len(each.ids) for each in found])
    return ChatBatch(
        images=torch.from_numpy(numbered(images)),
        has_image=torch.ones(count, dtype=torch.bool),
        conversation_tokens=tokens,
        conversation_labels=labels,
        conversation_attended=torch.arange(longest)[None] < lengths[:, None],
        image_ids=torch.tensor(images),
        answer_ids=torch.arange(count),
        valid=torch.ones(count, dtype=torch.bool),
        ids=torch.arange(count),
        key=key,
    )


def _answers(opened: Opened, material: Material, *, model: str) -> list[Predictions]:
    """Return greedy answers about each image, a black and another one, and the likelier option of closed questions."""
    opened.model.eval()
    questions, images = material.questions["test"], material.images("test")
    other = _dealt(images)
    ways = {GREEDY: images, BLANK: [len(material.numbers)] * len(images), SHUFFLED: [other[n] for n in images]}
    prompts = [[{"role": "user", "content": question.prompt}] for question in questions]
    found = []
    for way, numbers in ways.items():
        texts = generate_texts(opened, numbered(numbers), prompts, max_new_tokens=ANSWER, batch=2 * BATCH)
        named = {question.id: text for question, text in zip(questions, texts, strict=True)}
        found.append(Predictions(model=model, decoding=way, texts=named))
        print(f"answered: {way}", flush=True)
    chosen = {}
    for question, number, prompt in zip(questions, images, prompts, strict=True):
        if question.right_choice is not None:
            scores = choice_log_likelihoods(opened, numbered([number])[0], prompt, question.choices)
            chosen[question.id] = likeliest(scores, question.choices)
    return [*found, Predictions(model=model, decoding=CANDIDATES, texts=chosen)]


def _dealt(images: Sequence[int]) -> dict[int, int]:
    order = np.random.default_rng(0).permutation(sorted(set(images)))
    return dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))


def _write(page: Path, table: str) -> None:
    text = page.read_text()
    if any(marker not in text for marker in MARKERS):
        raise SystemExit(f"{page} has no markers {MARKERS[0]} and {MARKERS[1]}.")
    head, rest = text.split(MARKERS[0], 1)
    page.write_text(f"{head}{MARKERS[0]}\n{table}{MARKERS[1]}{rest.split(MARKERS[1], 1)[1]}")


if __name__ == "__main__":
    main()
