"""What the text nodes of a stage-2 step cost: three passes, one packed pass, in context; forward and backward.

python bench/multimodal_passes.py [--rows 4] [--words 128] [--image-tokens 49] [--spread 0] [--repeats 3]

SmolLM2-135M behind EfficientNet-Lite0, all modes over the same weights and the same batch, in turn within each repeat,
so that a busy machine slows them alike; medians and their ratios. Conversations hold the image, a question of 24 words
and an answer; the answers run apart, and extended answers of twice the words. `--spread` is by how many words the
answers of a batch differ: padding for whoever pads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from medalign.packaged_language_model import packaged_language_model
from medalign.vision_towers import open_tower
from medalign_core.models.multimodal.architecture import EfficientNetLite0Config, EfficientNetLite0Tower
from medalign_core.models.multimodal.assembling import assemble
from medalign_core.models.multimodal.batch import IGNORED, ChatBatch
from medalign_core.models.multimodal.settings import Llava
from medalign_core.types import DrawKey

QUESTION, IMAGE = 24, 49_151
MODES = {  # name: (text_nodes, attention, with texts for graphs)
    "autoregressive alone": ("separate", "sdpa", False),
    "in context": ("in_context", "sdpa", False),
    "three passes": ("separate", "sdpa", True),
    "packed": ("packed", "sdpa", True),
    "packed, varlen": ("packed", "medalign_varlen", True),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 4), ("words", 128), ("image-tokens", 49), ("spread", 0), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, size = _network(given.image_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in MODES}
    short = argparse.Namespace(**{**vars(given), "rows": 1, "words": 8, "spread": 0})
    _step(network, MODES["packed"], _batch(short, size, with_texts=True))  # warms up
    for _ in range(given.repeats):
        for name, mode in MODES.items():
            seconds[name].append(_step(network, mode, _batch(given, size, with_texts=mode[2])))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"{given.rows} rows, {given.words} + {given.spread} words, {given.image_tokens} image tokens, one thread")
    for name, taken in medians.items():
        print(
            f"{name:22} {taken:7.2f} s   {taken / medians['autoregressive alone']:.2f} x autoregressive alone"
            f"   {taken / medians['three passes']:.2f} x three passes",
            flush=True,
        )


def _network(image_tokens: int) -> tuple[Any, int]:
    from transformers import AutoModelForCausalLM

    side = 32 * round(image_tokens**0.5)
    tower = EfficientNetLite0Tower(EfficientNetLite0Config(image_size=side))
    tower.load_state_dict(open_tower("efficientnet_lite0").network.state_dict())
    causal = AutoModelForCausalLM.from_pretrained(packaged_language_model())
    return assemble(tower, causal, Llava(), image_token=IMAGE).train(), side


def _step(network: Any, mode: tuple[str, str, bool], batch: ChatBatch) -> float:
    text_nodes, attention, _ = mode
    network.model.language_model.set_attn_implementation(attention)
    model = Llava(text_nodes=text_nodes, attention=attention).build(network).train()  # type: ignore[arg-type]
    start = time.perf_counter()
    output = model(batch)
    nodes = [n for n in output[2:] if n is not None]
    (output.ar_loss_sum / output.ar_tokens + sum(n.square().mean() for n in nodes)).backward()
    taken = time.perf_counter() - start
    model.zero_grad()
    return taken


def _batch(given: argparse.Namespace, size: int, *, with_texts: bool) -> ChatBatch:
    draws = torch.Generator().manual_seed(1)
    lengths = [given.words + given.spread * row // max(given.rows - 1, 1) for row in range(given.rows)]
    answers = [torch.randint(3, 49_000, (n,), generator=draws) for n in lengths]
    extended = [torch.randint(3, 49_000, (2 * n,), generator=draws) for n in lengths]
    before = torch.cat(
        [torch.full((given.image_tokens,), IMAGE), torch.randint(3, 49_000, (QUESTION,), generator=draws)]
    )
    tokens, attended = _padded([torch.cat([before, answer]) for answer in answers])
    labels = torch.where(attended, tokens, IGNORED)
    labels[:, : len(before)] = IGNORED
    texts: dict[str, Any] = {}
    if with_texts:
        texts["answer_tokens"], texts["answer_attended"] = _padded(answers)
        texts["extended_tokens"], texts["extended_attended"] = _padded(extended)
    rows = torch.arange(given.rows)
    return ChatBatch(
        images=torch.randint(0, 256, (given.rows, 3, size, size), generator=draws, dtype=torch.uint8),
        has_image=torch.ones(given.rows, dtype=torch.bool),
        conversation_tokens=tokens,
        conversation_labels=labels,
        conversation_attended=attended,
        image_ids=rows,
        answer_ids=rows,
        valid=torch.ones(given.rows, dtype=torch.bool),
        ids=rows,
        key=DrawKey(0, 0, 0),
        **texts,
    )


def _padded(texts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    return tokens, torch.arange(tokens.shape[1])[None] < lengths[:, None]


if __name__ == "__main__":
    main()
