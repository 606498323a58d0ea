"""What a multimodal model says of images: prompts by its chat template, greedy texts, likelihoods of options. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from medalign.data.dialogue import IMAGE
from medalign.errors import UserError
from medalign.multimodal_models import Opened
from medalign_core.models.multimodal.batch import IGNORED

MARK = "[[answer]]"
Message = dict[str, str]


def write_prompt(tokenizer: Any, messages: Sequence[Message], slot: str) -> str:
    """Return a conversation as text, up to where the assistant speaks next, an image's tokens in place of the mark.

    Args:
        tokenizer: with a chat template.
        messages: {"role": "user" or "assistant", "content": ...} in turn; the image's mark stands in the first one.
        slot: the text that stands for an image.
    """
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    return text.replace(IMAGE, slot, 1)


def stop_of(tokenizer: Any) -> tuple[str, tuple[int, ...]]:
    """Return what the chat template puts behind an answer, and the token ids that end one.

    A stop of several tokens, such as v0's, has no id of its own: texts are cut where it is written.
    """
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False)).rpartition(MARK)[2].rstrip()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    own = (tokenizer.eos_token_id,) if tokenizer.eos_token_id is not None else ()
    alone = tuple(ids) if len(ids) == 1 else ()
    return text, tuple(dict.fromkeys((*own, *alone)))


def generate_texts(
    opened: Opened,
    images: UInt8[ndarray, "N 3 S S"],
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 64,
    batch: int = 8,
) -> list[str]:
    """Return what the model says after each prompt, greedily, in the order given.

    Batches hold prompts of like length, so that little is padding; padding is on the left.

    Args:
        opened: the model and its tokenizer.
        images: one for each prompt.
        prompts: conversations that end with what the user says.
        max_new_tokens: the most tokens of an answer.
        batch: prompts that are answered at once.
    """
    tokenizer = opened.tokenizer
    texts = [write_prompt(tokenizer, messages, opened.slot) for messages in prompts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda n: (len(ids[n]), n))
    found = [""] * len(ids)
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        said = generate_tokens(opened, images[places], [ids[n] for n in places], max_new_tokens=max_new_tokens)
        for n, answer in zip(places, said, strict=True):
            found[n] = read_answer(tokenizer, answer)
    return found


def generate_tokens(
    opened: Opened,
    images: UInt8[ndarray, "B 3 S S"],
    ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    streamer: Any = None,
) -> list[list[int]]:
    """Return the tokens that the model adds to each prompt, padding behind an answer's end included."""
    tokenizer, device = opened.tokenizer, _device(opened)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    tokens, attended = _padded(ids, padding)
    said = opened.model.generate(
        torch.from_numpy(images).to(device),
        tokens.to(device),
        attended.to(device),
        max_new_tokens=max_new_tokens,
        stop=stop_of(tokenizer)[1],
        padding=padding,
        streamer=streamer,
    )
    return said.tolist()


def read_answer(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return an answer's text: without special tokens, cut where the template's stop is written, blanks at its ends."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    stop = stop_of(tokenizer)[0].strip()
    return (text.partition(stop)[0] if stop else text).strip()


def choice_log_likelihoods(
    opened: Opened, image: UInt8[ndarray, "3 S S"], messages: Sequence[Message], choices: Sequence[str]
) -> Float[ndarray, " C"]:
    """Return log p(option and its stop | image, prompt) of each option.

    The stop is part of it, so that an option that begins another one is no likelier for being shorter by itself.

    Raises:
        UserError: no options.
    """
    if not choices:
        raise UserError("likelihoods need options; the question has none.")
    tokenizer, device = opened.tokenizer, _device(opened)
    prompt, stop = write_prompt(tokenizer, messages, opened.slot), stop_of(tokenizer)[0]
    ids, labels = [], []
    for choice in choices:
        found = tokenizer(f"{prompt}{choice}{stop}", add_special_tokens=False, return_offsets_mapping=True)
        is_said = [end > len(prompt) for _, end in found["offset_mapping"]]
        ids.append(found["input_ids"])
        labels.append([token if said else IGNORED for token, said in zip(ids[-1], is_said, strict=True)])
    tokens, attended = _padded(ids, 0)
    targets, _ = _padded(labels, IGNORED)
    images = torch.from_numpy(image).to(device).expand(len(choices), -1, -1, -1)
    given = (tokens.to(device), attended.to(device), targets.to(device))
    return opened.model.log_likelihoods(images, *given).double().cpu().numpy()


def likeliest(scores: Float[ndarray, " C"], choices: Sequence[str]) -> str:
    """Return the likeliest option, the first of a tie; "" where no likelihood is a number."""
    return choices[int(np.nanargmax(scores))] if not np.isnan(scores).all() else ""


def _padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows padded on the right, and where they are not padding."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    return tokens, torch.tensor([[n < len(row) for n in range(longest)] for row in rows])


def _device(opened: Opened) -> torch.device:
    return next(opened.model.parameters()).device
