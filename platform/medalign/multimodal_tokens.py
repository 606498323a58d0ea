"""The tokenizer of a multimodal model and what stands for an image in its texts: opened without any weights."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from medalign.byte_language_model import BYTES, byte_tokenizer
from medalign.errors import UserError
from medalign.packaged_language_model import packaged_language_model

if TYPE_CHECKING:
    from medalign_core.models.multimodal.settings import Llava

PACKAGED_LANGUAGE, PACKAGED_VISION = "smollm2_135m", "efficientnet_lite0"
IMAGE, START, END, PADDING = "<image>", "<im_start>", "<im_end>", "[PAD]"
V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
V0_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set rest = messages[1:] %}"
    "{% else %}" + V0_SYSTEM + "{% set rest = messages %}{% endif %}{{ '\\n\\n' }}"
    "{% for message in rest %}{{ '### ' + ('Human' if message['role'] == 'user' else 'Assistant') + ': ' "
    "+ message['content'] + '\\n' }}{% endfor %}{{ '### Assistant:' if add_generation_prompt else '### ' }}"
)


class Words(NamedTuple):
    """What writes a model's conversations as tokens.

    Attributes:
        tokenizer: the language model's, with the image's tokens and a chat template.
        slot: the text that stands for an image: its M image tokens, between markers where the model has them.
        image_size: height and width of the images that the tower reads.
    """

    tokenizer: Any
    slot: str
    image_size: int


@lru_cache(maxsize=4)
def open_words(settings: Llava) -> Words:
    """Open what writes the tokens of the model that `open_multimodal` opens: the same, without its weights.

    A process opens it once.

    Raises:
        UserError: a source cannot be opened, a package is missing, or there is no chat template.
    """
    from medalign_core.models.multimodal.configurations import image_tokens

    if settings.source:
        config = _config("source", settings.source)
        tokenizer = open_tokenizer("source", settings.source, settings)
        image, tower = tokenizer.convert_ids_to_tokens(config.image_token_id), config.vision_config
        return Words(tokenizer, slot_of(tokenizer, image, config.image_seq_length), tower.image_size)
    tokenizer = open_tokenizer("language", settings.language, settings)
    add_tokens(tokenizer)
    tower = _tower_config(settings.vision)
    return Words(tokenizer, slot_of(tokenizer, IMAGE, image_tokens(tower)), tower.image_size)


def open_tokenizer(key: str, source: str, settings: Llava) -> Any:
    """Open a tokenizer, with the chat template that the settings ask for.

    Raises:
        UserError: it cannot be opened or has no chat template.
    """
    tokenizer = byte_tokenizer() if source == BYTES else _from_directory(key, source)
    if settings.chat == "v0":
        tokenizer.chat_template = V0_TEMPLATE
    if not tokenizer.chat_template:
        raise UserError(
            f"model.{key} = {source}: its tokenizer has no chat template; set model.chat: v0 for LLaVA-Med's, "
            "or take an instruction-tuned model."
        )
    return tokenizer


def add_tokens(tokenizer: Any) -> None:
    """Add the image's tokens, and padding where there is none; tokens it has keep their ids."""
    from tokenizers import AddedToken

    new = [AddedToken(text, special=True, normalized=False) for text in (IMAGE, START, END)]
    tokenizer.add_tokens(new, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PADDING})


def markers_of(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens around an image, none where the tokenizer has no such tokens."""
    vocabulary = tokenizer.get_vocab()
    return (vocabulary[START], vocabulary[END]) if START in vocabulary and END in vocabulary else ()


def slot_of(tokenizer: Any, image: str, count: int) -> str:
    """Return the text that stands for an image of `count` image tokens."""
    return f"{START}{image * count}{END}" if markers_of(tokenizer) else image * count


def cannot_open(key: str, source: str, error: Exception) -> UserError:
    """Return what to tell about a source that is no model."""
    cause = " ".join(str(error).split())[:160]
    return UserError(f"model.{key} = {source}: not a transformers directory or hub id that can be opened ({cause}).")


def _from_directory(key: str, source: str) -> Any:
    from transformers import AutoTokenizer

    where = str(packaged_language_model()) if key == "language" and source == PACKAGED_LANGUAGE else source
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cannot_open(key, source, error) from error


def _config(key: str, source: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_open(key, source, error) from error


def _tower_config(source: str) -> Any:
    from medalign_core.models.multimodal.configurations import EfficientNetLite0Config

    if source == PACKAGED_VISION:
        return EfficientNetLite0Config()
    whole = _config("vision", source)
    return whole.vision_config if whole.model_type in ("clip", "siglip") else whole
