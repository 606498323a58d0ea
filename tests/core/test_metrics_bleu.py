"""BLEU against hand-counted precisions and its limits."""

import math

import pytest

from medalign_core.metrics.bleu import bleu, bleu_as_published

CAT = "the cat is on the mat".split()


def test_published_bleu_is_the_geometric_mean_of_clipped_precisions():
    # Papineni et al. 2002, example 2: "the" seven times has a clipped unigram precision of 2/7
    assert bleu_as_published(["the"] * 7, CAT, order=1) == pytest.approx(2 / 7)
    given = "the cat is on a mat".split()  # 5/6, 3/5, 2/4, 1/3 of the n-grams occur
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu_as_published(given, CAT) == pytest.approx(expected)
    assert bleu(given, CAT) == pytest.approx(expected)


def test_a_short_prediction_is_punished_by_the_ratio_of_lengths():
    assert bleu_as_published(CAT[:5], CAT) == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu(CAT[:5], CAT) == pytest.approx(math.exp(1 - 6 / 5))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6])
def test_corrected_bleu_of_equal_texts_is_1_whatever_their_length(length):
    assert bleu(CAT[:length], CAT[:length]) == pytest.approx(1)


def test_no_common_word_and_no_word_at_all_give_0():
    for score in (bleu, bleu_as_published):
        assert score(["dog"], CAT) == 0
        assert score([], CAT) == 0
        assert score(CAT, []) == 0
