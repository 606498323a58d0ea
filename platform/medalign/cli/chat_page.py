"""A page that talks to a model about an image in a browser: Gradio around a conversation."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medalign.data.dialogue import IMAGE
from medalign.errors import UserError
from medalign.evaluation.vqa.conversation import Conversation
from medalign.evaluation.vqa.generation import Message
from medalign.multimodal_models import Opened

TITLE = "Not for clinical use."
_one_at_a_time = threading.Lock()  # a page may be open twice, the model is one


def build_page(opened: Opened, *, name: str, max_new_tokens: int = 256) -> Any:
    """Return the Gradio page of a model; `launch` serves it.

    Raises:
        UserError: Gradio is not installed, or cannot be imported.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the page needs gradio >= 6 ({error}): pip install 'gradio>=6'; without --page, chat is here."
        ) from error

    def answer(image: str | None, text: str, messages: list[Message]) -> Iterator[tuple[Any, list[Message], str]]:
        if not image or not text.strip():
            raise gradio.Error("Give an image and a question.")
        for found in replies(opened, Path(image), text, messages=messages, max_new_tokens=max_new_tokens):
            yield shown(found), found, ""

    with gradio.Blocks(title=name, analytics_enabled=False) as page:
        gradio.Markdown(f"**{name}**. {TITLE}")
        messages = gradio.State([])
        with gradio.Row():
            image = gradio.Image(type="filepath", format="png", label="image")
            with gradio.Column():
                talk = gradio.Chatbot(label="conversation")
                text = gradio.Textbox(label="question", submit_btn=True)
        text.submit(answer, [image, text, messages], [talk, messages, text])
        image.change(lambda: ([], []), None, [talk, messages])  # another image, another conversation
    return page


def replies(
    opened: Opened, image: Path, text: str, *, messages: list[Message], max_new_tokens: int
) -> Iterator[list[Message]]:
    """Yield the conversation with the answer so far, as it grows, and last as it is remembered.

    Args:
        opened: the model and its tokenizer.
        image: a PNG or a JPEG.
        text: what the user says.
        messages: what was said before.
        max_new_tokens: the most tokens of the answer.

    Raises:
        UserError: the image cannot be decoded.
    """
    conversation = Conversation(opened, image.read_bytes(), max_new_tokens=max_new_tokens)
    conversation.messages = list(messages)
    pieces: queue.Queue[str | BaseException | None] = queue.Queue()

    def speak() -> None:
        try:
            with _one_at_a_time:
                conversation.say(text, write=pieces.put)
            pieces.put(None)
        except BaseException as error:  # noqa: BLE001  it belongs to whoever waits
            pieces.put(error)

    threading.Thread(target=speak, daemon=True).start()
    said = ""
    while (piece := pieces.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        said += piece
        asked: list[Message] = [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
        yield [*messages, *asked]
    yield conversation.messages


def shown(messages: list[Message]) -> list[Message]:
    """Return a conversation as people read it, without the image's mark."""
    return [{**message, "content": message["content"].replace(IMAGE, "").strip()} for message in messages]
