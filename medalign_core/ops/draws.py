"""Keyed random draws: one key, one stream, wherever and whenever it is drawn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def draw_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends on the whole key and on nothing else.

    The parts are joined with their types, so that (1, 23) and (12, 3) and ("1", 23) are three keys.
    The seed is the same on every machine, Python version and process (it does not use `hash`).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator for `key` (see `draw_seed`)."""
    import torch

    return torch.Generator(device=device).manual_seed(draw_seed(*key))
