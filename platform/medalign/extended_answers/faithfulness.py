"""What an extended answer may not add or lose: numbers, sides, negations, and medical entities. Pure.

The check reads words, not meaning: it catches what changes a finding most often, and lets a rewording pass. A review by
somebody who knows is not replaced.
"""

from __future__ import annotations

import re

SIDES = frozenset(
    "left right bilateral unilateral upper lower anterior posterior superior inferior medial lateral proximal distal"
    " apical basal central peripheral".split()
)
SIDE_FORMS = {"leftsided": "left", "rightsided": "right", "bilaterally": "bilateral", "laterally": "lateral"}
NEGATIONS = frozenset("no not none without absent absence denies denied negative never nor neither cannot".split())
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split(),
    )
} | {"single": "1", "double": "2", "twice": "2", "both": "2"}
# "one" is a pronoun as often as a number; a text may gain or lose it
UNCOUNTED = frozenset({"1"})
# endings of words that name a disease, a finding or an operation, and words without such an ending
ENDINGS = re.compile(
    r"(itis|oma|omas|osis|oses|emia|aemia|pathy|ectomy|otomy|plasia|megaly|uria|algia|sclerosis|stenosis|thorax|rrhage"
    r"|cele|edema|oedema|ectasis|lithiasis|trophy|plegia|cytes)$"
)
ENTITIES = frozenset(
    "pneumonia effusion fracture infarct infarction tumor tumour mass nodule nodules lesion lesions cyst cysts abscess"
    " embolism aneurysm consolidation opacity opacities metastasis metastases hernia ischemia calcification"
    " calcifications cancer malignancy infection brain liver lung lungs kidney kidneys spleen heart pancreas bowel"
    " stomach bladder spine chest abdomen head pelvis".split()
)


def violations(original: str, extended: str, *, question: str = "") -> tuple[str, ...]:
    """Return what is unfaithful in an extended answer, a phrase each; none of it if empty.

    Numbers, sides, entities and abbreviations may come from the original or the question, and the original's must all
    be kept; a text that has no negation gains none, and one that has keeps one.

    Args:
        original: the answer as the corpus has it.
        extended: the answer written again.
        question: what was asked.
    """
    before, after, asked = _words(original), _words(extended), _words(question)
    found = []
    for name, of in (("number", _numbers), ("side", _sides), ("entity", _entities)):
        known, given = of(before), of(after)
        found += [f"adds the {name} {word!r}" for word in sorted(given - known - of(asked))]
        found += [f"loses the {name} {word!r}" for word in sorted(known - given)]
    if _is_negated(before) != _is_negated(after) and not (_is_negated(asked) and _is_negated(after)):
        found.append("adds a negation" if _is_negated(after) else "loses the negation")
    capitals = (set(re.findall(r"\b[A-Z][A-Z0-9]+\b", text)) for text in (original, extended, question))
    known, given, asked_for = capitals
    found += [f"adds the abbreviation {word!r}" for word in sorted(given - known - asked_for)]
    return tuple(found)


def _words(text: str) -> list[str]:
    plain = text.lower().replace("left-sided", "leftsided").replace("right-sided", "rightsided")
    plain = re.sub(r"n't\b", " not", plain)
    return re.findall(r"\d+(?:[.,]\d+)*|[a-z]+", plain)


def _numbers(words: list[str]) -> set[str]:
    found = {NUMBERS.get(word, word) for word in words if word in NUMBERS or word[0].isdigit()}
    return found - UNCOUNTED


def _sides(words: list[str]) -> set[str]:
    return {SIDE_FORMS.get(word, word) for word in words} & SIDES


def _entities(words: list[str]) -> set[str]:
    found = {word for word in words if word in ENTITIES or (len(word) > 5 and ENDINGS.search(word))}
    return {word[:-1] if word.endswith("s") and word[:-1] in ENTITIES | found else word for word in found}


def _is_negated(words: list[str]) -> bool:
    return any(word in NEGATIONS for word in words)
