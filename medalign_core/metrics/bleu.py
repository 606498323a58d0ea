"""BLEU of one sentence against one reference: as NLTK computes it without smoothing, and for short answers."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence

ORDERS = 4


def bleu_as_published(prediction: Sequence[str], reference: Sequence[str], *, order: int | None = None) -> float:
    """Return BP * exp(sum_n w_n log p_n) with w_n = 1/4, or with all weight on one `order`.

    A precision of 0 above the first order counts as the smallest positive float, so that one word which is right
    scores 1e-231 and not 1; one order alone is not the cumulative BLEU of that order. No common word gives 0.

    Source: Papineni et al., BLEU, ACL 2002, sections 2.1 and 2.3; behaviour of NLTK's `sentence_bleu` with its default
    smoothing, which LLaVA-Med's evaluation calls.

    Args:
        prediction: its words.
        reference: its words.
        order: 1 to 4; None weighs all four alike.
    """
    precisions = [_precision(prediction, reference, n) for n in range(1, ORDERS + 1)]
    if not precisions[0]:
        return 0.0
    weights = [1 / ORDERS] * ORDERS if order is None else [float(n == order) for n in range(1, ORDERS + 1)]
    logs = (w * math.log(p or sys.float_info.min) for w, p in zip(weights, precisions, strict=True))
    return _brevity(prediction, reference) * math.exp(math.fsum(logs))


def bleu(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return BLEU over the orders that both texts have, up to 4: 1 for equal texts of any length; 0 if any p_n is 0."""
    orders = min(ORDERS, len(prediction), len(reference))
    precisions = [_precision(prediction, reference, n) for n in range(1, orders + 1)]
    if not orders or not all(precisions):
        return 0.0
    return _brevity(prediction, reference) * math.exp(math.fsum(map(math.log, precisions)) / orders)


def _precision(prediction: Sequence[str], reference: Sequence[str], n: int) -> float:
    found, known = _grams(prediction, n), _grams(reference, n)
    return sum(min(count, known[gram]) for gram, count in found.items()) / max(1, sum(found.values()))


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _brevity(prediction: Sequence[str], reference: Sequence[str]) -> float:
    if len(prediction) > len(reference):
        return 1.0
    return math.exp(1 - len(reference) / len(prediction)) if prediction else 0.0
