"""What a language model is told when it writes an answer again at length, and what of its answer counts. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from medalign.data.dialogue import IMAGE
from medalign.extended_answers.faithfulness import violations
from medalign.language_models import parse_object

KEYS = {"explanation", "revision"}
SHORT_WORDS, SHORT_LIMIT, FACTOR = 2, 20, 2  # answers of up to 2 words may have 20, longer ones twice their own
_SYSTEM = """You improve answers to questions about a medical image that you do not see.
First judge the answer in short phrases: is it helpful, relevant, accurate, detailed, well structured? Then write it \
again, as somebody who sees the image would say it. Keep every fact and every medical term; change no number, no side \
and no negation; add no finding that the answer does not have. You may say in more words what the answer means.
Answer with one JSON object and nothing else: {"explanation": "...", "revision": "..."}"""
_EXAMPLE_QUESTION = "Question: Is the liver enlarged?\nAnswer: No\nAt most 20 words."
_EXAMPLE_ANSWER = {
    "explanation": "Relevant but very short.",
    "revision": "No, the liver is not enlarged; its size looks normal in this image.",
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How answers are asked for.

    Attributes:
        about: what the images are, e.g. "chest X-rays of adults"; "" says nothing.
    """

    about: str = ""

    @property
    def prompt_sha256(self) -> str:
        """The hash of all that the model is told but questions and answers."""
        told = [_SYSTEM, _EXAMPLE_QUESTION, _EXAMPLE_ANSWER, [SHORT_WORDS, SHORT_LIMIT, FACTOR], self.about]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def messages(self, question: str, answer: str) -> list[dict[str, str]]:
        """Return the request to write one answer again."""
        about = f"The images are {self.about}.\n" if self.about else ""
        plain = " ".join(question.replace(IMAGE, " ").split())
        asked = f"{about}Question: {plain}\nAnswer: {answer}\nAt most {most_words(answer)} words."
        return [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _EXAMPLE_QUESTION},
            {"role": "assistant", "content": json.dumps(_EXAMPLE_ANSWER)},
            {"role": "user", "content": asked},
        ]

    def again(self, messages: list[dict[str, str]], *, text: str, problem: str) -> list[dict[str, str]]:
        """Return the request with a useless answer and what is wrong with it: at temperature 0 it would come again."""
        said = [{"role": "assistant", "content": text}] if text.strip() else []
        complaint = f"That answer cannot be used: {problem}. Answer again, with the JSON object only."
        return [*messages, *said, {"role": "user", "content": complaint}]


def most_words(answer: str) -> int:
    """Return how many words an extended answer may have."""
    words = len(answer.split())
    return SHORT_LIMIT if words <= SHORT_WORDS else max(SHORT_LIMIT, FACTOR * words)


def read_revision(text: str, *, question: str, answer: str) -> str:
    """Return the extended answer within a model's answer.

    Raises:
        ValueError: what is wrong with it: the form, no text, too many words, or unfaithful to the answer.
    """
    found = parse_object(text)
    if set(found) != KEYS or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"the object must have texts as {sorted(KEYS)}, got the keys {sorted(found)[:5]}")
    revision = " ".join(found["revision"].split())
    if not revision or not revision.isprintable():
        raise ValueError("the revision is empty or holds control characters")
    if IMAGE in revision:
        raise ValueError("the revision holds the mark of an image")
    if len(revision.split()) > most_words(answer):
        raise ValueError(f"the revision has {len(revision.split())} words, at most {most_words(answer)}")
    if wrong := violations(answer, revision, question=question):
        raise UnfaithfulError(f"unfaithful: {'; '.join(wrong)}")
    return revision


class UnfaithfulError(ValueError):
    """A revision that adds or loses a number, a side, a negation or an entity."""
