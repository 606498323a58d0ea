"""A conversation becomes (ids, labels): exactly what the assistant says, and its stop, is learnt. Pure.

A conversation is first written out as one text with the spans that are learnt, then tokenised once: a token is learnt
if it overlaps such a span. Pieces are never tokenised apart, so tokens cannot shift against their mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medalign.data.dialogue import ASSISTANT, HUMAN, IMAGE, Turns
from medalign.errors import CorpusError
from medalign.multimodal_tokens import V0_SYSTEM as SYSTEM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the label of a token that is not learnt
NAMED = 10
MARKER = "###"
_ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
_NAMES = {HUMAN: "Human", ASSISTANT: "Assistant"}


@dataclass(frozen=True)
class Written:
    """A conversation as text, and the [start, stop) spans of it that are learnt, in order.

    Attributes:
        text: the whole conversation.
        learnt: the spans.
        adds_start: whether the tokenizer is to put its own start token before it.
    """

    text: str
    learnt: tuple[tuple[int, int], ...]
    adds_start: bool


@dataclass(frozen=True)
class Tokens:
    """A tokenised conversation.

    Attributes:
        ids: of its tokens.
        labels: the id of each token that is learnt, IGNORE of the others.
        cut: how many tokens the limit on the length took away.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut: int


@dataclass(frozen=True)
class Checked:
    """What `check` found: how many samples, how many of them were cut, and how long the longest is, in tokens."""

    samples: int
    cut: int
    longest: int


def write_v0(turns: Turns, *, system: str = SYSTEM, learn: Literal["assistant", "published"] = "assistant") -> Written:
    r"""Write a conversation in the v0 format: SYSTEM, an empty line, `### Human: ...\n### Assistant: ...\n### `.

    Args:
        turns: a conversation in the form of `dialogue.turns`.
        system: the sentence it begins with.
        learn: "assistant": what the assistant says, and behind it the end of the line and `###`, which stops it.
            "published", as LLaVA-Med's code masks: besides these the `###` of every human turn, the first one too
            (two tokens of LLaMA's), the assistant's own `### Assistant: `, and the blank behind the last `###`.
    """
    text, learnt = f"{system}\n\n", []
    for turn in turns:
        head = f"{MARKER} {_NAMES[turn['from']]}: "
        start, said = len(text), len(text) + len(head)
        text += f"{head}{turn['value']}\n"
        if turn["from"] == ASSISTANT:
            learnt.append((start if learn == "published" else said, len(text) + len(MARKER)))
        elif learn == "published":
            learnt.append((start, start + len(MARKER)))
    text += f"{MARKER} "
    if learn == "published":
        learnt.append((len(text) - len(MARKER) - 1, len(text)))
    return Written(text=text, learnt=tuple(learnt), adds_start=True)


def write_template(turns: Turns, tokenizer: PreTrainedTokenizerBase, *, system: str = "") -> Written:
    """Write a conversation by a tokenizer's own chat template; learnt is what the assistant says and its stop.

    The stop is what the template puts behind the last answer, without blanks at its end. The answers are found by
    writing the conversation with marks in their place, so a template may rewrite earlier turns.

    Raises:
        CorpusError: the tokenizer has no template, or one that loses an answer or ends none.
    """
    if not tokenizer.chat_template:
        raise CorpusError("the tokenizer has no chat template; give it one, or use the v0 format.")
    marks = [f"[[answer {n}]]" for n in range(len(turns))]
    messages = [{"role": "system", "content": system}] if system else []
    for mark, turn in zip(marks, turns, strict=True):
        said = mark if turn["from"] == ASSISTANT else turn["value"]
        messages.append({"role": _ROLES[turn["from"]], "content": said})
    rest = str(tokenizer.apply_chat_template(messages, tokenize=False))
    stop = rest.rpartition(marks[len(turns) - 1])[2].rstrip()
    if not stop:
        raise CorpusError("the chat template puts nothing behind an answer: a model would never learn to stop.")
    text, learnt = "", []
    for mark, turn in zip(marks, turns, strict=True):
        if turn["from"] != ASSISTANT:
            continue
        before, found, rest = rest.partition(mark)
        if not found or not rest.startswith(stop):
            raise CorpusError("the chat template drops an answer, or ends one otherwise than the last.")
        text += before
        learnt.append((len(text), len(text) + len(turn["value"]) + len(stop)))
        text += turn["value"]
    return Written(text=text + rest, learnt=tuple(learnt), adds_start=False)


def tokenise(
    written: Written, tokenizer: PreTrainedTokenizerBase, *, max_length: int, image: str | None = None
) -> Tokens:
    """Tokenise a written conversation once.

    Args:
        written: what `write_v0` or `write_template` returned.
        tokenizer: a fast one, which knows where in the text a token comes from.
        max_length: in tokens; what is beyond is cut off.
        image: what stands for the image mark, for example a start, 256 patch tokens and an end; as it is if None.

    Raises:
        CorpusError: a slow tokenizer; nothing left to learn; or the limit cuts through the image's tokens.
    """
    if not tokenizer.is_fast:
        raise CorpusError("labels need a fast tokenizer, which says where in the text a token comes from.")
    if image is not None:
        written = _with_image(written, image)
    found: Any = tokenizer(written.text, add_special_tokens=written.adds_start, return_offsets_mapping=True)
    ids, offsets = list(found["input_ids"]), found["offset_mapping"]
    # a sequence may end with a token that the tokenizer adds: it would teach to go on after it
    while written.adds_start and ids and offsets[-1][0] == offsets[-1][1] and len(ids) > 1:
        ids, offsets = ids[:-1], offsets[:-1]
    slot = _slot(written.text, image)
    if len(ids) > max_length and any(stop > slot[0] and start < slot[1] for start, stop in offsets[max_length:]):
        raise CorpusError(f"{len(ids)} tokens: the limit of {max_length} cuts through the image's.")
    learnt = [any(start < end and stop > begin for begin, end in written.learnt) for start, stop in offsets]
    labels = [token if is_learnt else IGNORE for token, is_learnt in zip(ids, learnt, strict=True)][:max_length]
    if all(label == IGNORE for label in labels):
        raise CorpusError(f"nothing left to learn within {max_length} tokens: every label is masked.")
    return Tokens(ids=tuple(ids[:max_length]), labels=tuple(labels), cut=max(0, len(ids) - max_length))


def answer_text(turns: Turns) -> str:
    """Return what stands for a conversation in the alignment's graphs: only the answers, joined by ". ".

    New lines become blanks, image marks go (LoGra-Med removes new lines altogether, which joins words).
    """
    said = (turn["value"].replace(IMAGE, "") for turn in turns if turn["from"] == ASSISTANT)
    return ". ".join(" ".join(value.split("\n")).strip() for value in said)


def check(samples: Iterable[tuple[str, Turns]], tokens_of: Callable[[Turns], Tokens]) -> Checked:
    """Tokenise samples and count what the limit on the length cuts.

    Args:
        samples: (name, conversation).
        tokens_of: `write_v0` or `write_template` and `tokenise`, with their settings.

    Raises:
        CorpusError: samples of which nothing would be learnt, or whose image would be cut: the first ten are named.
    """
    refused: list[str] = []
    lengths: list[int] = []
    cut = 0
    for name, turns in samples:
        try:
            found = tokens_of(turns)
        except CorpusError as error:
            refused.append(f"{name} ({error})")
            continue
        cut += found.cut > 0
        lengths.append(len(found.ids) + found.cut)
    if refused:
        more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        shown = "; ".join(refused[:NAMED])
        raise CorpusError(f"{len(refused)} of {len(refused) + len(lengths)} samples cannot be learnt: {shown}{more}.")
    return Checked(samples=len(lengths), cut=cut, longest=max(lengths, default=0))


def _with_image(written: Written, image: str) -> Written:
    """Put the image's tokens in place of the mark, and move the spans behind it."""
    place = written.text.find(IMAGE)
    if place < 0:
        return written
    text = f"{written.text[:place]}{image}{written.text[place + len(IMAGE) :]}"
    grown = len(image) - len(IMAGE)
    return Written(text, _moved(written.learnt, place, grown), written.adds_start)


def _moved(spans: Sequence[tuple[int, int]], place: int, by: int) -> tuple[tuple[int, int], ...]:
    return tuple((start + by * (start > place), stop + by * (stop > place)) for start, stop in spans)


def _slot(text: str, image: str | None) -> tuple[int, int]:
    mark = image or IMAGE
    place = text.find(mark)
    return (place, place + len(mark)) if place >= 0 else (0, 0)
