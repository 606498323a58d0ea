"""A corpus of questions about striped pictures, in the way of VQA-RAD, and the parts of a tiny model for it."""

from collections.abc import Callable
from pathlib import Path

import striped_corpus
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from medalign.data.dialogue import YES_NO, ask

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 32
COLOURS = ("red", "blue", "grey", "green", "brown")


def write_corpus(at: Path, splits: dict[str, int], change: Callable[[str, int, dict], None] | None = None) -> str:
    """Write a corpus; each picture has two questions, one closed, and every other row an extended answer."""

    def with_words(split: str, i: int, row: dict) -> None:
        is_open, colour = i % 2 == 0, COLOURS[i // 2 % len(COLOURS)]
        open_, closed = f"{colour} stripes {row['label']}", "yes" if row["label"] == "down" else "no"
        question, answer = ("what is it?", open_) if is_open else ("do they run down?", closed)
        row["question"], row["answer"] = question, answer
        row["answer_type"] = "OPEN" if is_open else "CLOSED"
        row["conversations"] = ask(question, answer, choices=() if is_open else YES_NO)
        row["pixels"] = f"{split}-{i // 2}"  # the picture is the same
        if is_open:
            row["conversations_long"] = ask(question, f"{open_}, picture {i} of many")
        if change is not None:
            change(split, i, row)

    return striped_corpus.write_corpus(at, splits, with_words, task="vqa")


def write_tower(at: Path) -> str:
    """Write a tiny random CLIP tower of 16 patches and return its directory."""
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=SIDE, patch_size=8)).save_pretrained(at)
    return str(at)
