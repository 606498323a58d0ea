import pytest

from medalign_core.models.dual.tokens import PromptTokenizer


def by_letters(texts: list[str]) -> list[list[int]]:
    return [[10 + ord(letter) - ord("a") for letter in text] for text in texts]


SIZES = {"start": 1, "end": 2, "padding": 0, "placeholder": 9}
TOKENIZE = PromptTokenizer(split=by_letters, context_length=8, **SIZES)


def test_prompts_are_start_words_end_and_padding():
    prompts = TOKENIZE(["ab", "abcd"], 0)
    assert prompts.ids.tolist() == [[1, 10, 11, 2, 0, 0], [1, 10, 11, 12, 13, 2]]
    assert prompts.attended.tolist() == [[True] * 4 + [False] * 2, [True] * 6]


def test_a_context_has_room_after_the_start_token():
    assert TOKENIZE(["ab"], 3).ids.tolist() == [[1, 9, 9, 9, 10, 11, 2]]


def test_a_text_too_long_is_named_with_its_tokens():
    assert TOKENIZE(["abcdef"], 0).ids.shape == (1, 8)
    with pytest.raises(ValueError, match=r"'abcdefg' is 9 tokens long .* the text tower takes 8"):
        TOKENIZE(["a", "abcdefg"], 0)
    with pytest.raises(ValueError, match=r"'abcdef' is 10 tokens long \(start and end included, 2 of them context\)"):
        TOKENIZE(["abcdef"], 2)


def test_no_text_or_a_negative_context_raises():
    with pytest.raises(ValueError, match="at least one text"):
        TOKENIZE([], 0)
    with pytest.raises(ValueError, match="context must be >= 0"):
        TOKENIZE(["a"], -1)
    with pytest.raises(ValueError, match="context_length must be >= 3"):
        PromptTokenizer(split=by_letters, context_length=2, **SIZES)
