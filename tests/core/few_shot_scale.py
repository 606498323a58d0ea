"""One training step of Dude at the size of CLIP's text tower, measured in a process of its own: prints JSON.

python tests/core/few_shot_scale.py CLASSES STEPS
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from few_shot_cases import batch_of, features, split  # noqa: E402

from medalign_core.models.dual.encoder import DualEncoder  # noqa: E402
from medalign_core.models.dual.settings import Clip  # noqa: E402
from medalign_core.models.dual.tokens import PromptTokenizer  # noqa: E402
from medalign_core.objectives.few_shot.contract import ClassTexts  # noqa: E402
from medalign_core.objectives.few_shot.dude.settings import Dude  # noqa: E402
from medalign_core.solvers.transport import factors  # noqa: E402

IMAGES, TOKENS, WIDTH = 32, 49, 512


def clip_with_a_real_text_tower() -> DualEncoder:
    """12 blocks of width 512 and 77 positions, random; a vision half that nobody asks."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 8, "patch_size": 4})
    tokenize = PromptTokenizer(split=split, start=0, end=1, padding=2, placeholder=3, context_length=77)
    return Clip(source="random").build(CLIPModel(config), tokenize)


def timed(function: Callable[..., Any], spent: list[float]) -> staticmethod:
    """Wrap a static method so that its seconds are added up."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        spent[0] += time.perf_counter() - start
        return result

    return staticmethod(run)


def measure(classes: int, steps: int) -> dict[str, float]:
    """Return seconds and the transport's share of the fastest step, and the process's peak memory in GB."""
    names = tuple(f"kind number {c}" for c in range(classes))
    sentences = tuple(tuple(f"{name} seen from side {k}" for k in range(4)) for name in names)
    texts = ClassTexts(names=names, template="a photo of a {}.", descriptions=sentences)
    method = Dude().build(clip_with_a_real_text_tower(), texts, seed=0).train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=2e-3, eps=1e-3)
    batch, spent = batch_of(features(IMAGES, TOKENS, size=WIDTH), torch.arange(IMAGES) % classes), [0.0]
    for name in ("forward", "backward"):
        setattr(factors._Score, name, timed(getattr(factors._Score, name), spent))
    best = {"seconds": float("inf"), "share": 1.0}
    for _ in range(steps):
        spent[0], start = 0.0, time.perf_counter()
        optimizer.zero_grad()
        method(batch)[0].backward()
        optimizer.step()
        seconds = time.perf_counter() - start
        if seconds < best["seconds"]:
            best = {"seconds": seconds, "share": spent[0] / seconds}
    return best | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*map(int, sys.argv[1:]))) + "\n")
