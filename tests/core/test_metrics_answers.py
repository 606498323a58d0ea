"""The corrected normaliser: one form for answers that say the same, another for those that do not."""

import random

import pytest

from medalign_core.metrics.answers import normalise_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Lungs are clear.", "lungs are clear"),
        ("x-ray", "x ray"),
        ("1.5 cm, or 2.0.", "1.5 cm or 2.0"),
        ("None", "none"),
        ("three nodules", "3 nodules"),
        ("it\u2019s 40%", "it's 40 %"),
        ("A", "a"),
        ("the", "the"),
        ("", ""),
        ("\uff21\uff22", "ab"),
        ("...", ""),
    ],
)
def test_an_answer_has_one_form(text, normal):
    assert normalise_answer(text) == normal


def test_the_form_is_a_fixed_point():
    draw = random.Random(3)
    for _ in range(500):
        text = "".join(draw.choice("aA1 .,'-%\n\u00e9thno") for _ in range(draw.randint(0, 25)))
        once = normalise_answer(text)
        assert normalise_answer(once) == once
