"""Published corpora and architectures as plain figures, so that a plan needs neither the images nor the weights.

Rows and bytes of the corpora are those of their releases; tokens are estimates from the sizes of the released files
(for LLaMA's tokenizer, 256 image tokens included), good to about 30 %. A corpus at hand is measured instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medalign.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PublishedCorpus:
    """A corpus that a plan can assume.

    Attributes:
        rows: of its training split.
        row_bytes: bytes of one stored row, image and words.
        tokens: mean tokens of a row's texts: `conversation`, of which `learnt` are targets, `answer` and `extended`.
        source: where the figures are from.
    """

    rows: int
    row_bytes: int
    tokens: Mapping[str, int] = field(default_factory=dict)
    source: str


_RESIZED = "images at 224 px are about 14 kB each"
_WORDS = {"conversation": 350, "learnt": 40, "answer": 40}
CORPORA = {
    "llava_med_alignment": PublishedCorpus(
        rows=467_400,
        row_bytes=15_000,
        tokens={"conversation": 440, "learnt": 130},
        source=f"LLaVA-Med's alignment set, 467.4 k figures with captions; {_RESIZED}",
    ),
    "llava_med_instruct": PublishedCorpus(
        rows=56_700,
        row_bytes=17_000,
        tokens={"conversation": 540, "learnt": 185, "answer": 185, "extended": 300},
        source=f"LLaVA-Med's 60 k instructions with in-line mentions, 56.7 k usable; {_RESIZED}",
    ),
    "vqa_rad": PublishedCorpus(
        rows=1_342, row_bytes=60_000, tokens=_WORDS, source="VQA-RAD as LoGra-Med fine-tunes on it, 1,342 questions"
    ),
    "slake": PublishedCorpus(rows=4_919, row_bytes=60_000, tokens=_WORDS, source="SLAKE, English, 4,919 questions"),
    "path_vqa": PublishedCorpus(rows=19_755, row_bytes=40_000, tokens=_WORDS, source="PathVQA, 19,755 questions"),
    "lvm_med": PublishedCorpus(
        rows=1_300_000, row_bytes=30_000, source="LVM-Med's corpus, about 1.3 M images of 55 sets; 30 kB an image"
    ),
}

CLIP_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
LLAMA_7B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
# a hub id -> the kind of its transformers configuration, and what it says
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai/clip-vit-large-patch14": ("clip_vision_model", CLIP_L14),
    "huggyllama/llama-7b": ("llama", LLAMA_7B),
    "microsoft/resnet-50": ("resnet", {}),
}
ADDED_TOKENS = 4  # around and for an image, and padding: what a tokenizer without them is given


def find_corpus(name: str) -> PublishedCorpus:
    """Return the published corpus of a name.

    Raises:
        UserError: no such one; the message lists those there are.
    """
    if name not in CORPORA:
        raise UserError(f"--like {name}: unknown; there is: {', '.join(CORPORA)}.")
    return CORPORA[name]
