"""What is wrong with a bank, and with a bank for a corpus: a line for each problem, and notes that stop nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from medalign.banks.bank import Bank, normalise
from medalign.errors import BankError

NAMED = 5
KINDS = ("people", "model")


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """What a text tower takes.

    Attributes:
        count: tokens of a sentence, special ones included.
        most: CLIP 77, BiomedCLIP 256.
    """

    count: Callable[[str], int]
    most: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a check found; a bank without problems can be used."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(bank: Bank, *, classes: Sequence[str] | None = None, limit: TokenLimit | None = None) -> Findings:
    """Check a bank's words.

    Args:
        bank: what is checked.
        classes: of a corpus that it must serve.
        limit: of a text tower that must read it.
    """
    problems = [*_head(bank), *_names(bank), *_sentences(bank)]
    problems += _cover(bank, classes) if classes is not None else ()
    problems += _lengths(bank, limit) if limit is not None else ()
    return Findings(problems=tuple(problems), notes=tuple(_notes(bank, classes)))


def require(bank: Bank, *, classes: Sequence[str] | None = None, limit: TokenLimit | None = None) -> None:
    """Refuse a bank with problems.

    Raises:
        BankError: one line that names the first problem, and how many there are.
    """
    problems = check(bank, classes=classes, limit=limit).problems
    if problems:
        more = f" ({len(problems) - 1} more; `medalign bank validate` lists them)" if len(problems) > 1 else ""
        raise BankError(f"bank {bank.name!r}: {problems[0]}{more}.")


def match(bank: Bank, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the bank's name of each class of a corpus; case, _, - and / do not count.

    Raises:
        BankError: the bank lacks a class.
    """
    problem = next(_cover(bank, classes), None)
    if problem:
        raise BankError(f"bank {bank.name!r}: {problem}.")
    names = {normalise(name): name for name in bank.classes}
    return tuple(names[normalise(name)] for name in classes)


def _head(bank: Bank) -> Iterator[str]:
    if not bank.name.strip():
        yield "name is empty"
    if bank.template.count("{}") != 1 or len(re.findall(r"[{}]", bank.template)) != 2:
        yield f"template must hold one {{}} for the class's name, got {bank.template!r}"
    origin = bank.provenance
    if not origin.author.strip():
        yield "provenance.author is empty"
    if origin.kind not in KINDS:
        yield f"provenance.kind must be {' or '.join(KINDS)}, got {origin.kind!r}"
    if origin.kind == "model" and not re.fullmatch(r"[0-9a-f]{64}", origin.prompt_sha256 or ""):
        yield "provenance.prompt_sha256 must be the SHA-256 of the instruction, as the author is a model"
    try:
        date.fromisoformat(origin.date)
    except ValueError:
        yield f"provenance.date must be an ISO date (2026-01-31), got {origin.date!r}"


def _names(bank: Bank) -> Iterator[str]:
    if not bank.classes:
        yield "classes is empty"
    spellings: dict[str, str] = {}
    shown: dict[str, str] = {}
    for name in bank.classes:
        display = bank.display(name)
        same = spellings.setdefault(normalise(name), name)
        owner = shown.setdefault(normalise(display), name)
        if not normalise(name) or not normalise(display):
            yield f"class {name!r} has an empty name"
        elif same != name:
            yield f"class {name!r} is the same as {same!r}: case, _, - and / do not count"
        elif owner != name:
            yield f"class {name!r} is shown as {display!r}, as {owner!r} is"
    for name in bank.display_names:
        if name not in bank.classes:
            yield f"display_names has {name!r}, which is no class"


def _sentences(bank: Bank) -> Iterator[str]:
    for name, texts in bank.classes.items():
        if not texts:
            yield f"class {name!r} has no sentences"
        seen: set[str] = set()
        for number, text in enumerate(texts, 1):
            if not text.strip():
                yield f"class {name!r}, sentence {number}: empty"
            elif not text.isprintable():
                yield f"class {name!r}, sentence {number}: holds a line break or another control character"
            elif _plain(text) in seen:
                yield f"class {name!r}, sentence {number}: there twice ({_short(text)})"
            seen.add(_plain(text))


def _cover(bank: Bank, classes: Sequence[str]) -> Iterator[str]:
    have = {normalise(name) for name in bank.classes}
    missing = [name for name in classes if normalise(name) not in have]
    if missing:
        yield f"the corpus's class {_list(missing)} is missing; the bank has {_list(list(bank.classes))}"
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(normalise(name), name)
        if other != name:
            yield f"the corpus's classes {other!r} and {name!r} are the same: case, _, - and / do not count"


def _lengths(bank: Bank, limit: TokenLimit) -> Iterator[str]:
    for name, texts in bank.classes.items():
        filled = bank.template.replace("{}", bank.display(name))
        if limit.count(filled) > limit.most:
            yield f"class {name!r}: its template has {limit.count(filled)} tokens, the text tower reads {limit.most}"
        for number, text in enumerate(texts, 1):
            count = limit.count(text)
            if count > limit.most:
                yield f"class {name!r}, sentence {number}: {count} tokens, the text tower reads {limit.most}"


def _notes(bank: Bank, classes: Sequence[str] | None) -> Iterator[str]:
    counts = {name: len(texts) for name, texts in bank.classes.items()}
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        yield f"ragged: from {counts[few]} sentences ({few!r}) to {counts[many]} ({many!r}) a class"
    if classes is not None:
        wanted = {normalise(name) for name in classes}
        spare = [name for name in bank.classes if normalise(name) not in wanted]
        if spare:
            yield f"not in the corpus: {_list(spare)}"
    owners: dict[str, str] = {}
    for name, texts in bank.classes.items():
        for number, text in enumerate(texts, 1):
            owner = owners.setdefault(_plain(text), name)
            if owner != name:
                yield f"class {name!r}, sentence {number}: word for word one of {owner!r} ({_short(text)})"
            for other in _named(bank, text, but=name):
                yield f"class {name!r}, sentence {number}: names the class {other!r} ({_short(text)})"
    if bank.provenance.reviewer is None:
        yield "no clinician has reviewed it (provenance.reviewer is null)"


def _named(bank: Bank, text: str, *, but: str) -> Iterator[str]:
    """Yield the other classes whose name stands in a sentence, and not only within the class's own name."""
    words = f" {_plain(text)} "
    own = {_plain(but), _plain(bank.display(but))}
    for other in bank.classes:
        for name in {_plain(other), _plain(bank.display(other))} - {""}:
            if f" {name} " in words and not any(f" {name} " in f" {mine} " for mine in own):
                yield other
                break


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", normalise(text)).split())


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMED]))
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
