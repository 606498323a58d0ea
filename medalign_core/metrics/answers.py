"""Normalising free-text answers: as published with LLaVA-Med, defects included, and as one would mean it."""

from __future__ import annotations

import re
import unicodedata

NUMBERS = {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
ARTICLES = frozenset(("a", "an", "the"))

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # re.UNICODE, passed where the number of replacements belongs
# Words that lack one apostrophe, by the whole word. With two of them either may be the one that is missing.
_ONE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't"
    " it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've shouldn't"
    " somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's"
    " they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's"
    " where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
_TWO = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've"
    " there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll 'ow's'at"
)


def _lacking_one(words: str) -> dict[str, str]:
    found = {}
    for word in words.split():
        for place, letter in enumerate(word):
            if letter == "'":
                found[word[:place] + word[place + 1 :]] = word
    return found


_CONTRACTIONS = {
    **_lacking_one(_ONE),
    **_lacking_one(_TWO),
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "somebody'd": "somebodyd",  # sic: the wrong way round
}


def normalise_as_published(text: str) -> str:
    """Return an answer as LLaVA-Med's evaluation normalises it, which LoGra-Med took over.

    In order: each punctuation mark becomes nothing if it stands beside a blank anywhere in the text, or if any comma
    stands between digits; otherwise a blank. Periods that no digit follows go, but only the first 32. Then, in lower
    case: number words become digits ("none" becomes 0), articles go, contractions get their apostrophe.

    Source: the function of VQA's evaluation as LLaVA-Med ships it (llava/eval/eval_metrics/glossary.py), behaviour
    only. Its defects are kept: `tests/core/test_metrics_vqa.py` lists them.
    """
    found = text
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        is_beside_blank = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if is_beside_blank or has_number else " ")
    words = (_NUMBERS_AS_PUBLISHED.get(word, word) for word in _PERIOD.sub("", found, count=_PERIODS).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


_NUMBERS_AS_PUBLISHED = {**NUMBERS, "none": "0"}


def normalise_answer(text: str) -> str:
    """Return an answer's words in one form: the corrected normaliser, by which duplicates are found too.

    Unicode in its compatible form, lower case; everything but letters, digits, percent signs, apostrophes within
    words and points within numbers separates words; number words from zero to ten become digits; articles go unless
    nothing else is left. Idempotent.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    words = [NUMBERS.get(word, word) for word in _WORD.findall(plain)]
    return " ".join([word for word in words if word not in ARTICLES] or words)


_WORD = re.compile(r"\d+(?:\.\d+)+|\w+(?:'\w+)*|%")
