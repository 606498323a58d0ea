"""A small language model of whole words for the statements' vocabulary: tokenizer, weights, conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from statements import Statement

from medalign.byte_language_model import START, STOP, TEMPLATE
from medalign.data import chat, dialogue
from medalign.data.chat import Tokens

WIDTH, LAYERS, HEADS = 128, 2, 4
MAX_LENGTH = 256
ROLES = ("user", "assistant")


def word_tokenizer(texts: Iterable[str]) -> Any:
    """Return a tokenizer of the words of `texts`, with the turns of ChatML around messages."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.split()} | set(ROLES))
    inner = Tokenizer(models.WordLevel(vocab={word: n for n, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=STOP, pad_token="[PAD]", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def word_language_model(tokenizer: Any) -> Any:
    """Return a LLaMA for that tokenizer; its weights come from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    make: Any = LlamaForCausalLM
    return make._from_config(config, attn_implementation="sdpa")


def conversation(statements: Sequence[Statement], *, extended: bool = False) -> dialogue.Turns:
    """Return the questions on one picture as turns of one conversation, in the order given."""
    found: dialogue.Turns = []
    for each in statements:
        mark = "" if found else f"{dialogue.IMAGE}\n"
        found.append({"from": dialogue.HUMAN, "value": f"{mark}{each.question}"})
        found.append({"from": dialogue.ASSISTANT, "value": each.extended if extended else each.answer})
    return found


def tokens_of(turns: dialogue.Turns, tokenizer: Any, slot: str) -> Tokens:
    """Return a conversation's tokens, and which of them are learnt."""
    written = chat.write_template(turns, tokenizer)
    return chat.tokenise(written, tokenizer, max_length=MAX_LENGTH, image=slot)
