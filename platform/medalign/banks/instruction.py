"""What a language model is told when it writes a bank, and what of its answer counts. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from medalign.banks.bank import normalise
from medalign.errors import BankError
from medalign.language_models import parse_object

KEY = "descriptions"
_SYSTEM = """You write captions for a classifier that compares an image with sentences.
Each sentence names one thing that can be SEEN in the image itself: shape, outline, density or colour, texture, \
position, size relative to its surroundings. Leave out causes, symptoms, treatment, prevalence and anything else that \
no picture shows. Do not name any of the other classes. Plain, correct terms; one sentence each, no numbering.
Answer with one JSON object and nothing else: {"descriptions": ["...", "..."]}"""
_EXAMPLE_QUESTION = 'Class: "lemon". Other classes: "orange". Write exactly 2 descriptions of at most 12 words each.'
_EXAMPLE_ANSWER = {KEY: ["Bright yellow oval fruit with a pointed tip.", "Glossy rind with fine, even pores."]}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A bank that is wanted.

    Attributes:
        name: of the bank.
        classes: display name by class name.
        template: holds one {}.
        per_class: sentences of each class.
        most_words: of a sentence.
        about: what the images are, e.g. "chest X-rays of children"; "" says nothing.
    """

    name: str
    classes: Mapping[str, str] = field(default_factory=dict)
    template: str = "a photo of a {}."
    per_class: int = 4
    most_words: int = 16
    about: str = ""

    def __post_init__(self) -> None:
        if not self.classes:
            raise BankError("no classes to write a bank for.")
        seen: dict[str, str] = {}
        for name, display in self.classes.items():
            if not normalise(name) or not normalise(display):
                raise BankError("a class without a name.")
            for word in {normalise(name), normalise(display)}:
                if seen.setdefault(word, name) != name:
                    raise BankError(f"class {name!r} is the same as {seen[word]!r}: case, _, - and / do not count.")
        if self.template.count("{}") != 1 or len(re.findall(r"[{}]", self.template)) != 2:
            raise BankError(f"the template must hold one {{}} for the class's name, got {self.template!r}.")
        if not 1 <= self.per_class <= 100:
            raise BankError(f"sentences per class must be in [1, 100], got {self.per_class}.")
        if self.most_words < 3:
            raise BankError(f"words per sentence must be >= 3, got {self.most_words}.")

    @property
    def prompt_sha256(self) -> str:
        """The hash of all that the model is told but the classes."""
        told = [_SYSTEM, _EXAMPLE_QUESTION, _EXAMPLE_ANSWER, self.per_class, self.most_words, self.about]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def messages(self, name: str) -> list[dict[str, str]]:
        """Return the question about one class."""
        others = ", ".join(f'"{display}"' for other, display in self.classes.items() if other != name) or "none"
        about = f"The images are {self.about}. " if self.about else ""
        question = (
            f'{about}Class: "{self.classes[name]}". Other classes: {others}. '
            f"Write exactly {self.per_class} descriptions of at most {self.most_words} words each."
        )
        return [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _EXAMPLE_QUESTION},
            {"role": "assistant", "content": json.dumps(_EXAMPLE_ANSWER)},
            {"role": "user", "content": question},
        ]

    def again(self, messages: list[dict[str, str]], *, text: str, problem: str) -> list[dict[str, str]]:
        """Return the question with a useless answer and what is wrong with it: at temperature 0 it would come again."""
        said = [{"role": "assistant", "content": text}] if text.strip() else []
        complaint = f"That answer cannot be used: {problem}. Answer again, with the JSON object only."
        return [*messages, *said, {"role": "user", "content": complaint}]

    def read_answer(self, text: str) -> tuple[str, ...]:
        """Return the sentences of an answer.

        Raises:
            ValueError: what is wrong with it: the form, the count, a sentence empty, long or there twice.
        """
        found = parse_object(text)
        if set(found) != {KEY} or not isinstance(found[KEY], list):
            raise ValueError(f'the object must be {{"{KEY}": [...]}}, got the keys {sorted(found)[:5]}')
        if not all(isinstance(sentence, str) for sentence in found[KEY]):
            raise ValueError("a description that is no text")
        if len(found[KEY]) != self.per_class:
            raise ValueError(f"{len(found[KEY])} descriptions where {self.per_class} were asked for")
        sentences = tuple(" ".join(sentence.split()) for sentence in found[KEY])
        seen: set[str] = set()
        for number, sentence in enumerate(sentences, 1):
            if not sentence or not sentence.isprintable():
                raise ValueError(f"description {number} is empty or holds control characters")
            if len(sentence.split()) > self.most_words:
                raise ValueError(f"description {number} has {len(sentence.split())} words, at most {self.most_words}")
            plain = re.sub(r"[^\w ]", "", normalise(sentence))
            if plain in seen:
                raise ValueError(f"description {number} is there twice")
            seen.add(plain)
        return sentences


def read_classes(text: str, *, place: str) -> dict[str, str]:
    """Return display names by class name: one class a line, `name` or `name = display name`; # begins a remark.

    Raises:
        BankError: a class twice, or half of a line missing; it names the line.
    """
    classes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, equals, display = (part.strip() for part in line.partition("="))
        if not name or (equals and not display):
            raise BankError(f"{place}:{number}: write `name` or `name = display name`, got {line!r}.")
        if name in classes:
            raise BankError(f"{place}:{number}: the class {name!r} is there twice.")
        classes[name] = display or in_words(name)
    return classes


def in_words(name: str) -> str:
    """Return a class name as it stands in a sentence: underscores are blanks."""
    return " ".join(name.replace("_", " ").split())
