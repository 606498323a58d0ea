"""Nested seeded subsets: the tenth of a set is part of its two fifths. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from medalign.errors import CorpusError


def nested(keys: Sequence[str], share: float, *, seed: int) -> list[bool]:
    """Return which keys are in the subset: the round(share * N) of lowest rank, at least one.

    A key's rank is a hash of the seed and the key, so it depends neither on the share nor on other keys; subsets of
    one seed are nested.

    Args:
        keys: unique names.
        share: of the keys, in (0, 1].
        seed: another seed draws another family of subsets.

    Raises:
        CorpusError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise CorpusError(f"share must be in (0, 1], got {share}.")
    if share == 1:
        return [True] * len(keys)
    ranks = [hashlib.blake2b(f"{seed}\x1f{key}".encode(), digest_size=16).digest() for key in keys]
    chosen = set(sorted(ranks)[: max(1, round(share * len(keys)))])
    return [rank in chosen for rank in ranks]
