"""From a bank to the class texts of a few-shot method, and the controls of whether their words matter. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from medalign.banks.bank import Bank
from medalign.banks.checks import TokenLimit, match, require
from medalign_core.objectives.few_shot.contract import ClassTexts


def class_texts(
    bank: Bank, classes: Sequence[str], *, most: int | None = None, limit: TokenLimit | None = None
) -> ClassTexts:
    """Return the texts of a corpus's classes, in the corpus's order: label c has names[c] and descriptions[c].

    Args:
        bank: the sentences.
        classes: of the corpus; the bank may have others.
        most: sentences of each class, the first ones; all if None.
        limit: of the text tower that reads them.

    Raises:
        BankError: the bank has a problem, or lacks a class.
        ValueError: `most` < 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"most must be >= 1 or None, got {most}.")
    require(bank, classes=classes, limit=limit)
    names = match(bank, classes)
    return ClassTexts(
        names=tuple(bank.display(name) for name in names),
        template=bank.template,
        descriptions=tuple(tuple(bank.classes[name][:most]) for name in names),
    )


def led_by_template(texts: ClassTexts) -> ClassTexts:
    """Return texts whose descriptions each follow the class's filled template: "a photo of a X. It has ...".

    A sentence about a trait alone may not say which class it is about; a text tower trained on captions knows names
    better than traits. Apply it after a control, so that the control changes the descriptions and not the names.

    Raises:
        ValueError: no descriptions.
    """
    _need_descriptions(texts)
    pairs = zip(texts.sentences, texts.descriptions, strict=True)
    return replace(texts, descriptions=tuple(tuple(f"{lead} {text}" for text in own) for lead, own in pairs))


def shuffled_between_classes(texts: ClassTexts, *, seed: int) -> ClassTexts:
    """Return a control: every class has the descriptions of another one, whole lists in one random cycle (Sattolo).

    Where a method is as good with these, the content of its texts does not matter to it.

    Raises:
        ValueError: fewer than two classes, or no descriptions.
    """
    if len(texts.descriptions) < 2:
        raise ValueError(f"shuffling needs the descriptions of at least 2 classes, got {len(texts.descriptions)}.")
    order = list(range(len(texts.descriptions)))
    draws = random.Random(f"class texts {seed}")
    for last in range(len(order) - 1, 0, -1):
        other = draws.randrange(last)  # never itself, so that no class keeps its own
        order[last], order[other] = order[other], order[last]
    return replace(texts, descriptions=tuple(texts.descriptions[index] for index in order))


def template_instead(texts: ClassTexts) -> ClassTexts:
    """Return a control: each description is replaced by the class's filled template.

    A class of K_c descriptions gets K_c copies, so that where each is an atom of a measure the masses stay.

    Raises:
        ValueError: no descriptions.
    """
    _need_descriptions(texts)
    pairs = zip(texts.sentences, texts.descriptions, strict=True)
    return replace(texts, descriptions=tuple((sentence,) * len(replaced) for sentence, replaced in pairs))


def _need_descriptions(texts: ClassTexts) -> None:
    if not texts.descriptions:
        raise ValueError("the texts have no descriptions to change.")
