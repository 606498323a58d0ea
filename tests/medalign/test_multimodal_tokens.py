"""What writes a model's tokens, opened without weights, is what the opened model has; bytes need no file."""

from pathlib import Path

import drawn_chats
import pytest
import tiny_multimodal

from medalign.byte_language_model import byte_tokenizer
from medalign.errors import UserError
from medalign.multimodal_models import open_multimodal
from medalign.multimodal_tokens import open_words
from medalign_core.models.multimodal.settings import Llava


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("models")
    tiny_multimodal.write(at)
    return at


@pytest.mark.parametrize("of", ["parts", "whole", "bytes", "v0"])
def test_the_words_are_those_of_the_opened_model(place: Path, of: str) -> None:
    parts = {"language": str(place / "language"), "vision": str(place / "vision")}
    settings = {
        "parts": Llava(**parts),
        "whole": Llava(source=str(place / "whole")),
        "bytes": Llava(**{**parts, "language": "tiny_bytes"}),
        "v0": Llava(**parts, chat="v0"),
    }[of]
    words, opened = open_words(settings), open_multimodal(settings)
    assert words.slot == opened.slot
    assert words.image_size == opened.model.network.config.vision_config.image_size == drawn_chats.SIDE
    assert words.tokenizer.get_vocab() == opened.tokenizer.get_vocab()
    assert words.tokenizer.chat_template == opened.tokenizer.chat_template
    assert words.tokenizer(words.slot)["input_ids"].count(opened.model.image_token) == opened.model.image_tokens
    assert open_words(settings) is words


def test_the_packaged_tower_is_known_without_its_package() -> None:
    words = open_words(Llava(language="tiny_bytes"))
    assert (words.image_size, words.slot.count("<image>")) == (224, 49)


@pytest.mark.parametrize("key", ["source", "language", "vision"])
def test_a_place_that_is_no_model_is_named(key: str) -> None:
    with pytest.raises(UserError, match=f"model.{key} = /nowhere"):
        open_words(Llava(**{"language": "tiny_bytes", key: "/nowhere"}))


def test_any_text_is_its_bytes_and_comes_back() -> None:
    tokenizer = byte_tokenizer()
    for text in ("Is the heart enlarged?", "Gr\u00f6\u00dfe 3 \u00b5m\n", "\u7d30\u80de"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
    said = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id
