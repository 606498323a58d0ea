"""The limit of a text tower, from its tokenizer's folder."""

from __future__ import annotations

import os

from medalign.banks.checks import TokenLimit
from medalign.errors import BankError

BOUNDLESS = 1_000_000  # transformers writes a number beyond this where a tokenizer knows no limit


def open_limit(folder: str, *, most: int | None = None) -> TokenLimit:
    """Return how many tokens sentences have, and may have.

    Args:
        folder: of a Hugging Face tokenizer, on this machine.
        most: what the text tower reads; what the tokenizer says if None.

    Raises:
        BankError: no tokenizer there, or one that knows no limit and `most` is None.
    """
    from transformers import AutoTokenizer

    if not os.path.isdir(folder):
        raise BankError(f"{folder}: no folder here; give that of a tokenizer (tokenizer.json and its settings).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BankError(f"{folder}: not a tokenizer ({' '.join(str(error).split())[:120]}).") from None
    limit = most if most is not None else tokenizer.model_max_length
    if limit > BOUNDLESS:
        raise BankError(f"{folder}: the tokenizer knows no limit; give the text tower's (CLIP 77, BiomedCLIP 256).")
    return TokenLimit(count=lambda text: len(tokenizer(text)["input_ids"]), most=int(limit))
