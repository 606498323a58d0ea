"""A conversation with a model about one image: it remembers what was said, and speaks token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medalign.data.decode import decode_image
from medalign.data.dialogue import IMAGE
from medalign.errors import UserError
from medalign.evaluation.vqa.answerers import image_size_of
from medalign.evaluation.vqa.generation import Message, generate_tokens, read_answer, stop_of, write_prompt
from medalign.multimodal_models import Opened


class Conversation:
    """What was said about an image so far.

    Attributes:
        opened: the model and its tokenizer.
        messages: {"role": "user" or "assistant", "content": ...} in turn.
    """

    def __init__(self, opened: Opened, image: bytes, *, max_new_tokens: int = 256) -> None:
        """Take an encoded image.

        Raises:
            UserError: it is not a PNG or JPEG image that can be decoded.
        """
        self.opened, self.max_new_tokens = opened, max_new_tokens
        self.messages: list[Message] = []
        try:
            self._pixels = decode_image(image, image_size_of(opened))[np.newaxis]
        except ValueError as error:
            raise UserError(f"the image: {error}; give a PNG or a JPEG.") from error
        opened.model.eval()

    def say(self, text: str, *, write: Callable[[str], Any] | None = None) -> str:
        """Return the model's answer, which the conversation remembers.

        Args:
            text: what the user says; image marks in it are taken out.
            write: called with each piece of the answer as it comes.
        """
        text = text.replace(IMAGE, "").strip()
        content = text if self.messages else f"{text}\n{IMAGE}"
        asked = [*self.messages, {"role": "user", "content": content}]
        tokenizer = self.opened.tokenizer
        ids = tokenizer(write_prompt(tokenizer, asked, self.opened.slot), add_special_tokens=False)["input_ids"]
        streamer = _streamer(tokenizer, write) if write is not None else None
        (said,) = generate_tokens(
            self.opened, self._pixels, [ids], max_new_tokens=self.max_new_tokens, streamer=streamer
        )
        answer = read_answer(tokenizer, said)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer

    def forget(self) -> None:
        """Begin again about the same image."""
        self.messages = []


def _streamer(tokenizer: Any, write: Callable[[str], Any]) -> Any:
    """Return a streamer that gives whole words to `write`, up to where the template's stop is written."""
    from transformers import TextStreamer

    stop = stop_of(tokenizer)[0].strip()

    class Words(TextStreamer):
        has_stopped = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if self.has_stopped:
                return
            before, found, _ = text.partition(stop) if stop else (text, "", "")
            self.has_stopped = bool(found)
            if before:
                write(before)

    # with embeddings for a prompt, no ids of it are streamed but an empty row, which is what is skipped
    return Words(tokenizer, skip_prompt=True, skip_special_tokens=True)
