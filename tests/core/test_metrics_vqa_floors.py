"""Floors of VQA: what majorities and nearest questions answer, against hand-made cases and brute force."""

import random

import pytest

from medalign_core.metrics.answers import normalise_answer
from medalign_core.metrics.vqa_floors import (
    Asked,
    majority_of_type,
    most_frequent,
    nearest_question,
    nearest_question_of_image,
    question_only,
)

TRAIN = [
    Asked("Is the heart enlarged?", "Yes", "SIZE", "a"),
    Asked("is the heart enlarged", "no", "SIZE", "b"),
    Asked("Is the heart ENLARGED?", "No", "SIZE", "c"),
    Asked("Which side is the mass on?", "left", "POS", "a"),
    Asked("Where is the nodule in the lung?", "right", "POS", "b"),
]


def test_the_majority_of_a_type_is_counted_over_normal_forms_and_spelt_as_first_seen():
    asked = [Asked("?", "", "SIZE"), Asked("?", "", "POS"), Asked("?", "", "COLOR")]
    assert majority_of_type(TRAIN, asked) == ["no", "left", "no"]
    assert most_frequent(["b", "a", "A."]) == "a"


def test_question_only_takes_the_most_frequent_answer_of_the_nearest_and_nearest_the_first():
    asked = [Asked("Is this heart enlarged?", "no", "", "z")]
    assert question_only(TRAIN, asked) == ["no"]
    assert nearest_question(TRAIN, asked) == ["Yes"]


def test_an_image_that_was_seen_in_training_gives_its_answers_away():
    asked = [Asked("Is the heart enlarged?", "no", "", "c"), Asked("Is the heart enlarged?", "yes", "", "z")]
    assert nearest_question_of_image(TRAIN, asked) == ["No", "Yes"]


def test_similarity_is_the_share_of_common_words_as_brute_force_finds():
    draw = random.Random(0)
    words = "heart lung left right mass nodule size where is the".split()
    train = [Asked(" ".join(draw.choices(words, k=draw.randint(1, 6))), str(n)) for n in range(60)]
    asked = [Asked(" ".join(draw.choices(words, k=draw.randint(1, 6))), "") for _ in range(300)]  # beyond one block

    def similarity(one: Asked, other: Asked) -> float:
        a, b = (set(normalise_answer(each.question).split()) for each in (one, other))
        return len(a & b) / len(a | b) if a | b else 0.0

    expected = [max(train, key=lambda each: similarity(each, one)).answer for one in asked]
    assert nearest_question(train, asked) == expected


def test_questions_without_words_and_no_training_at_all():
    assert nearest_question(TRAIN, [Asked("???", "")]) == ["Yes"]
    for floor in (majority_of_type, question_only, nearest_question):
        with pytest.raises(ValueError, match="need training questions"):
            list(floor([], [Asked("x", "y")]))
