"""Multiple choice: which option an answer means, and that failures are wrong."""

import numpy as np
import pytest

from medalign_core.metrics.multiple_choice import choice_hits, macro_mean, most_similar, said

SIDES = ("left lung", "right lung", "both lungs")


def test_the_published_mapping_takes_the_most_similar_option_whatever_is_said():
    assert most_similar("right lung", SIDES) == 1
    assert most_similar("it is the heart", SIDES) is not None
    assert most_similar("", SIDES) is None
    assert most_similar("xyz", ("ab", "cd")) is None


@pytest.mark.parametrize(
    ("answer", "option"),
    [("B", 1), ("b.", 1), ("The right lung.", 1), ("left lung or right lung", None), ("the heart", None), ("", None)],
)
def test_an_option_is_said_by_its_letter_or_by_its_words(answer, option):
    assert said(answer, SIDES) == option


def test_the_longest_option_that_is_said_counts():
    assert said("left lung", ("left", "left lung", "right")) == 1


def test_failures_and_answers_without_meaning_are_wrong_and_counted():
    hits = choice_hits(
        ["left lung", None, "", "both lungs"], ["left lung", "left lung", "right lung", "both lungs"], [SIDES] * 4
    )
    assert hits.tolist() == [1, 0, 0, 1]
    strict = choice_hits(["leftish"], ["left lung"], [SIDES], chosen=said)
    assert strict.tolist() == [0]


def test_the_macro_mean_weighs_parts_alike():
    means = macro_mean(np.array([1, 1, 1, 0.0]), ["ct", "ct", "ct", "oct"])
    assert means == {"ct": 1, "oct": 0, "macro": 0.5}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="is none of its options"):
        choice_hits(["a"], ["c"], [("a", "b")])
    with pytest.raises(ValueError, match="1 predictions and 0 choices for 1 references"):
        choice_hits(["a"], ["a"], [])
