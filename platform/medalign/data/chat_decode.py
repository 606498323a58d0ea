"""From rows of conversations to micro-batches of tokens and pixels: the chat half of the stream. Pure: no Ray."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from medalign.data import chat
from medalign.data.decode import decode_image, text_columns
from medalign.data.dialogue import Turns
from medalign.errors import CorpusError
from medalign_core.metrics.answers import normalise_answer

if TYPE_CHECKING:
    from torch import Tensor

    from medalign.multimodal_tokens import Words
    from medalign_core.models.multimodal.batch import ChatBatch
    from medalign_core.models.multimodal.settings import Llava
    from medalign_core.types import DrawKey

Text = Literal["answer", "extended"]
TEXTS: tuple[Text, ...] = ("answer", "extended")
LEARNT = ("conversation_tokens", "conversation_labels")


@dataclass(frozen=True)
class ChatDecoder:
    """Turns blocks of rows with conversations into tokens and pixels, and those into ChatBatches.

    The tokenizer is opened once in each process that decodes, from the same place as the model's.

    Attributes:
        model: settings of the model that the tokens are for.
        size: side of an image in pixels; it must be the tower's.
        texts: which texts stand apart beside a conversation, for graphs.
    """

    model: Llava
    size: int
    texts: tuple[Text, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The corpus's columns that are read."""
        extended = ("conversations_long",) if "extended" in self.texts else ()
        return ("id", "image", "label", "pixels", "conversations", *extended)

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row, about."""
        return 3 * self.size**2 + 8 * self.model.max_length

    def __call__(self, block: pa.Table) -> dict[str, np.ndarray]:
        """Return a block's pixels, by the deterministic test transform, and its tokens as ragged lists.

        A row whose image cannot be read, or of whose words nothing could be learnt, becomes a hole, which has neither
        image nor tokens; its `reason` says why. The others keep their place.
        """
        from medalign.multimodal_tokens import open_words

        words, count = open_words(self.model), len(block)
        pixels = np.zeros((count, 3, self.size, self.size), dtype=np.uint8)
        ids = {name: np.full(count, -1, dtype=np.int64) for name in ("image_ids", "answer_ids")}
        tokens = {name: _ragged(count) for name in (*LEARNT, *(f"{text}_tokens" for text in self.texts))}
        valid, reasons = np.zeros(count, dtype=bool), [""] * count
        for place, row in enumerate(block.select(self._read(block)).to_pylist()):
            if row["row"] < 0:
                continue
            try:
                found = self._tokens(row, words)
                pixels[place] = decode_image(row["image"], self.size)
            except (ValueError, CorpusError) as error:
                reasons[place] = str(error)
                continue
            for name, values in found.items():
                tokens[name][place] = values
            ids["image_ids"][place] = stable_id(row["pixels"])
            ids["answer_ids"][place] = stable_id(normalise_answer(chat.answer_text(row["conversations"])))
            valid[place] = True
        known = {name: block[name].to_numpy() for name in ("row", "label", "step", "index")}
        texts = text_columns(id=block["id"].to_pylist(), reason=reasons)
        return {"images": pixels, "valid": valid, **ids, **tokens, **known, **texts}

    def collate(self, arrays: dict[str, np.ndarray], *, key: DrawKey, weight: float) -> ChatBatch:
        """Return the ChatBatch of decoded arrays, tokens padded on the right to the longest of the micro-batch."""
        import torch

        from medalign_core.models.multimodal.batch import ChatBatch

        tokens, attended = _padded(arrays["conversation_tokens"])
        labels, _ = _padded(arrays["conversation_labels"], filling=chat.IGNORE)
        texts: dict[str, Any] = {}
        for text in self.texts:
            texts[f"{text}_tokens"], texts[f"{text}_attended"] = _padded(arrays[f"{text}_tokens"])
        return ChatBatch(
            images=torch.from_numpy(np.array(arrays["images"])),
            has_image=torch.from_numpy(np.array(arrays["valid"])),  # a corpus has no row without an image
            conversation_tokens=tokens,
            conversation_labels=labels,
            conversation_attended=attended,
            **texts,
            image_ids=torch.from_numpy(np.array(arrays["image_ids"])),
            answer_ids=torch.from_numpy(np.array(arrays["answer_ids"])),
            valid=torch.from_numpy(np.array(arrays["valid"])),
            ids=torch.from_numpy(np.array(arrays["row"])),
            key=key,
            weight=weight,
        )

    def _read(self, block: pa.Table) -> list[str]:
        return [name for name in ("row", *self.columns) if name in block.column_names]

    def _tokens(self, row: dict[str, Any], words: Words) -> dict[str, np.ndarray]:
        """Return the token ids of a row's conversation and of its texts.

        Raises:
            CorpusError: the row is not there, or nothing of it could be learnt.
        """
        turns: Turns | None = row["conversations"]
        if turns is None or row["image"] is None:
            raise CorpusError("its shard is damaged")
        if self.model.chat == "v0":
            written = chat.write_v0(turns, learn=self.model.learn)
        else:
            written = chat.write_template(turns, words.tokenizer)
        whole = chat.tokenise(written, words.tokenizer, max_length=self.model.max_length, image=words.slot)
        found = {"conversation_tokens": _int32(whole.ids), "conversation_labels": _int32(whole.labels)}
        for text in self.texts:
            said = turns if text == "answer" else row["conversations_long"]
            found[f"{text}_tokens"] = _int32(self._text(said, words))
        return found

    def _text(self, turns: Turns | None, words: Words) -> list[int]:
        """Return the tokens of the answers alone; none where there are no such turns."""
        said = chat.answer_text(turns) if turns else ""
        ids: list[int] = words.tokenizer(said)["input_ids"] if said else []
        return ids[: self.model.max_length]


def stable_id(text: str) -> int:
    """Return a number in [0, 2^63) that stands for a text, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def _int32(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def _ragged(count: int) -> np.ndarray:
    """Return `count` empty lists of token ids."""
    lists = np.empty(count, dtype=object)
    for place in range(count):
        lists[place] = np.zeros(0, dtype=np.int32)
    return lists


def _padded(lists: np.ndarray, *, filling: int = 0) -> tuple[Tensor, Tensor]:
    """Return (values, is_there) of lists as rows of one length, at least 1; `filling` stands behind the shorter."""
    import torch

    width = max(1, *(len(values) for values in lists))
    padded = np.full((len(lists), width), filling, dtype=np.int64)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    lengths = np.array([len(values) for values in lists])
    return torch.from_numpy(padded), torch.from_numpy(np.arange(width) < lengths[:, None])
