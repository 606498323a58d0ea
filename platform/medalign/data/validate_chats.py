"""Validate a corpus's conversations against a tokenizer: their lengths, what a limit cuts, what cannot be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from medalign.data import chat, manifest
from medalign.data.chat import Checked, Tokens
from medalign.data.dialogue import IMAGE, Turns
from medalign.data.reader import read_rows
from medalign.errors import CorpusError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def validate_chats(
    uri: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    style: Literal["template", "v0"] = "template",
    max_length: int = 2048,
    image_tokens: int = 256,
) -> dict[str, Checked]:
    """Tokenise every conversation of a corpus as training would, and return what was found in each split.

    Args:
        uri: the corpus.
        tokenizer: a fast one; it learns the image mark as one token if it does not know it.
        style: its chat template, or the v0 format.
        max_length: the limit on a sample's length, with the image's tokens, in tokens.
        image_tokens: how many tokens stand for an image.

    Raises:
        CorpusError: a corpus without conversations, or samples of which nothing would be learnt or whose image would
            be cut: the first ten ids of the split are named.
    """
    corpus = manifest.read(uri)
    if corpus.task not in manifest.WITH_WORDS:
        raise CorpusError(f"{uri}: a corpus of images without conversations; there is nothing to tokenise.")
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE], special_tokens=True)

    def tokens_of(turns: Turns) -> Tokens:
        written = chat.write_v0(turns) if style == "v0" else chat.write_template(turns, tokenizer)
        return chat.tokenise(written, tokenizer, max_length=max_length, image=IMAGE * image_tokens)

    return {split: chat.check(_samples(uri, split), tokens_of) for split in corpus.splits}


def open_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Open a tokenizer's directory or hub id; none of its own code runs.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source}: no tokenizer can be opened here ({' '.join(str(error).split())[:120]}); give the directory or"
            " hub id of a language model."
        ) from error
    return found


def _samples(uri: str, split: str) -> Iterator[tuple[str, Turns]]:
    for batch in read_rows(uri, split, ("id", "conversations")):
        for row in batch.to_pylist():
            yield row["id"], row["conversations"]
