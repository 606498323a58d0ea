"""Who answers: a multimodal model of ours, any vision-language directory of transformers, an endpoint; one protocol."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from medalign import storage
from medalign.data.decode import decode_image, open_image
from medalign.data.dialogue import IMAGE
from medalign.errors import RunError, UserError
from medalign.evaluation.source import RECIPE
from medalign.evaluation.vqa.generation import choice_log_likelihoods, generate_texts, likeliest
from medalign.language_models import Endpoint, ask
from medalign.multimodal_models import Opened, open_multimodal
from medalign_core.models.multimodal.settings import Llava

OURS = ("llava", "medalign_llava")
EXPORT = "export"
AT_ONCE = 4  # questions that an endpoint is asked at the same time


class Answerer(Protocol):
    """What answers questions about images. An image that cannot be decoded, or no answer, gives ""."""

    def answer(self, images: Sequence[bytes], prompts: Sequence[str]) -> list[str]:
        """Return a text for each question, greedily."""

    def choose(self, images: Sequence[bytes], prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """Return the likeliest option of each question; "" for one without options.

        Raises:
            UserError: this one gives no likelihoods.
        """


class Multimodal:
    """A model of ours."""

    def __init__(self, opened: Opened, *, max_new_tokens: int = 64, batch: int = 8) -> None:
        self.opened, self.max_new_tokens, self.batch = opened, max_new_tokens, batch
        self.size = image_size_of(opened)
        opened.model.eval()
        if torch.cuda.is_available():
            opened.model.cuda()

    def answer(self, images: Sequence[bytes], prompts: Sequence[str]) -> list[str]:
        """Return a text for each question, greedily."""
        pixels = [_pixels(data, self.size) for data in images]
        good = [n for n, each in enumerate(pixels) if each is not None]
        found = [""] * len(prompts)
        if good:
            stacked = np.stack([each for each in pixels if each is not None])
            messages = [[{"role": "user", "content": prompts[n]}] for n in good]
            options = {"max_new_tokens": self.max_new_tokens, "batch": self.batch}
            for n, text in zip(good, generate_texts(self.opened, stacked, messages, **options), strict=True):
                found[n] = text
        return found

    def choose(self, images: Sequence[bytes], prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """Return the likeliest option of each question; "" for one without options."""
        found = []
        for data, prompt, options in zip(images, prompts, choices, strict=True):
            pixels = _pixels(data, self.size) if options else None
            if pixels is None:
                found.append("")
                continue
            messages = [{"role": "user", "content": prompt}]
            found.append(likeliest(choice_log_likelihoods(self.opened, pixels, messages, options), options))
        return found


class VisionLanguage:
    """Any directory that AutoModelForImageTextToText and AutoProcessor open, by its own processor and template."""

    def __init__(self, source: str, *, max_new_tokens: int = 64, batch: int = 8) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self.processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                source, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            cause = " ".join(str(error).split())[:160]
            raise UserError(f"{source}: not a vision-language directory that transformers opens ({cause}).") from error
        if not getattr(self.processor, "chat_template", None):
            raise UserError(f"{source}: its processor has no chat template, so nothing says how it is asked.")
        self.processor.tokenizer.padding_side = "left"
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.max_new_tokens, self.batch = max_new_tokens, batch

    def answer(self, images: Sequence[bytes], prompts: Sequence[str]) -> list[str]:
        """Return a text for each question, greedily, in batches of prompts of like length."""
        pictures = [_picture(data) for data in images]
        texts = [self._write(prompt) for prompt in prompts]
        good = [n for n, each in enumerate(pictures) if each is not None]
        order = sorted(good, key=lambda n: (len(texts[n]), n))
        found = [""] * len(prompts)
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            inputs = self.processor(
                images=[[pictures[n]] for n in places],
                text=[texts[n] for n in places],
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.no_grad():
                said = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
            new = said[:, inputs["input_ids"].shape[1] :]
            for n, text in zip(places, self.processor.batch_decode(new, skip_special_tokens=True), strict=True):
                found[n] = text.strip()
        return found

    def choose(self, images: Sequence[bytes], prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """Refuse: an outside model's processor does not say where an option begins among its tokens."""
        raise UserError("likelihoods of options are for models that MedAlign trains; leave out --candidates.")

    def _write(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt.replace(IMAGE, "").strip()}]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


class Remote:
    """A model behind an OpenAI-compatible endpoint that takes images."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def answer(self, images: Sequence[bytes], prompts: Sequence[str]) -> list[str]:
        """Return a text for each question; a refusal or a rejected question is no answer."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._answer, images, prompts))

    def choose(self, images: Sequence[bytes], prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """Refuse: an endpoint gives texts."""
        raise UserError("an endpoint gives no likelihoods of options; leave out --candidates.")

    def _answer(self, image: bytes, prompt: str) -> str:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": prompt.replace(IMAGE, "").strip()},
        ]
        found = ask(self.endpoint, [{"role": "user", "content": content}])
        is_cut = found.problem == "cut off at max_tokens"
        return found.text.strip() if is_cut or not found.problem else ""


def open_answerer(source: str, *, max_new_tokens: int = 64, batch: int = 8) -> Answerer:
    """Open a model directory, or what a training run exported.

    Llava models are opened as MedAlign trains them; any other directory by its own processor.

    Raises:
        UserError: no model there, or one that transformers does not open without remote code.
    """
    source = open_trained(source) if storage.exists(storage.join(source, RECIPE)) else source
    if _model_type(source) in OURS:
        opened = open_multimodal(Llava(source=source, text_nodes="in_context", attention="sdpa"))
        return Multimodal(opened, max_new_tokens=max_new_tokens, batch=batch)
    return VisionLanguage(source, max_new_tokens=max_new_tokens, batch=batch)


def open_trained(run: str) -> str:
    """Return the directory of a training run's exported model, `RUN/export`, as `save_multimodal` writes it.

    Raises:
        RunError: it is not there yet.
    """
    place = storage.join(run, EXPORT)
    if not storage.exists(storage.join(place, "config.json")):
        raise RunError(f"{run}: no exported model; write it with `medalign export {run} --to {place}`.")
    return place


def image_size_of(opened: Opened) -> int:
    """Return the side in pixels of the images that a model reads."""
    return int(opened.model.network.config.vision_config.image_size)


def black_image(side: int = 224) -> bytes:
    """Return an encoded image that shows nothing."""
    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (side, side)).save(sink, "PNG")
    return sink.getvalue()


def _model_type(source: str) -> str:
    path = Path(source.removeprefix("file://")) / "config.json"
    if not path.is_file():
        return ""  # a hub id: transformers asks its cache
    try:
        return str(json.loads(path.read_text()).get("model_type", ""))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a transformers config ({error}).") from error


def _pixels(data: bytes, size: int) -> np.ndarray | None:
    try:
        return decode_image(data, size)
    except ValueError:
        return None


def _picture(data: bytes) -> Any:
    try:
        return open_image(data)
    except ValueError:
        return None
