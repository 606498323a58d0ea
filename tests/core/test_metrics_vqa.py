"""VQA scores: every published defect against the golden file, the corrected twins beside them, means and intervals."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from medalign_core.metrics import vqa
from medalign_core.metrics.answers import normalise_as_published
from medalign_core.metrics.bleu import bleu_as_published
from medalign_core.metrics.intervals import bootstrap_interval

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vqa_quirks.json").read_text())


def _published_bleu(given: str, known: str, *, order: int | None = None) -> float:
    return bleu_as_published(normalise_as_published(given).split(), normalise_as_published(known).split(), order=order)


PUBLISHED = {
    "normalise": normalise_as_published,
    "recall": lambda given, known: vqa.open_f1(given, known)[2],
    "exact_match": vqa.exact_match,
    "closed": vqa.closed_hit,
    "closed_llava_med": vqa.closed_hit_llava_med,
    "bleu": _published_bleu,
    "bleu_2": lambda given, known: _published_bleu(given, known, order=2),
}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["quirk"])
def test_every_published_quirk_is_kept(case):
    found = PUBLISHED[case["of"]](*case["given"])
    if isinstance(case["is"], str):
        assert found == case["is"]
    elif case["is"] is None:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(case["is"], rel=1e-9, abs=0)


def test_corrected_recall_counts_a_word_as_often_as_both_have_it():
    assert vqa.open_f1_corrected("left left left", "left lung") == (pytest.approx(0.4), pytest.approx(1 / 3), 0.5)
    assert vqa.open_f1_corrected("left", "left left left lung")[2] == 0.25
    assert vqa.open_f1_corrected("A", "a") == (1, 1, 1)
    assert vqa.open_f1_corrected("", "left") == (0, 0, 0)


def test_corrected_exact_match_is_equality_of_normal_forms():
    assert vqa.exact_match_corrected("The left lung.", "left  LUNG") == 1
    assert vqa.exact_match_corrected("left lung", "left upper lobe of lung") == 0
    assert vqa.exact_match_corrected("none", "0") == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "choices", "hit"),
    [
        ("No.", "no", ("yes", "no"), 1),
        ("normal", "no", ("yes", "no"), 0),
        ("I do not know", "no", ("yes", "no"), 0),
        ("yes and no", "yes", ("yes", "no"), 0),
        ("No, the heart is normal", "No", ("Yes", "No"), 1),
        ("in the left lung", "left", ("yes", "no"), 1),
        ("left or right", "left", ("left", "right"), 0),
        ("left lung", "left lung", ("left", "left lung"), 1),
        ("", "no", ("yes", "no"), 0),
    ],
)
def test_corrected_closed_accuracy_needs_whole_words_and_no_other_choice(prediction, reference, choices, hit):
    assert vqa.closed_hit_corrected(prediction, reference, choices) == hit


def test_a_prediction_is_mapped_to_the_candidate_that_it_covers_best():
    chooser = vqa.CandidateSet(["left lung", "Right lung", "chest x-ray", "right lung"])
    assert chooser.choose("it is the right lung") == "right lung"
    assert chooser.choose("nothing that is known") == "left lung"  # the first of a tie at 0, as published
    assert chooser.choose("an x-ray of the chest") == "chest x ray"
    assert chooser.hit("this is the right", "the right lung") == 1
    with pytest.raises(ValueError, match="at least one answer"):
        vqa.CandidateSet([])


def test_the_choice_of_a_candidate_equals_brute_force():
    draw = random.Random(1)
    words = "left right upper lower lobe lung heart".split()
    candidates = [" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(40)] + ["the"]
    chooser, different = vqa.CandidateSet(candidates), list(dict.fromkeys(candidates))
    for _ in range(300):
        given = set(draw.choices([*words, "other"], k=draw.randint(0, 5)))
        sets = [set(normalise_as_published(candidate).split()) for candidate in different]
        shares = [len(each & given) / len(each) if each else 0.0 for each in sets]
        expected = normalise_as_published(different[shares.index(max(shares))])
        assert chooser.choose(" ".join(given)) == expected


def _scores():
    predictions = ["left lung", "yes", None, "no", "right", None]
    references = ["left", "yes", "right", "yes", "right upper lobe", "no"]
    kinds = ["OPEN", "CLOSED", "OPEN", "CLOSED", "OPEN", "CLOSED"]
    return vqa.vqa_scores(predictions, references, kinds, candidates=["left", "right", "right upper lobe"])


def test_scores_apply_to_their_kind_of_question_and_failures_stay_in_the_denominator():
    scores = _scores()
    for name, values in scores.items():
        elsewhere = values[1::2] if name.startswith("open") else values[::2]
        assert np.isnan(elsewhere).all(), name
        assert name.endswith("llava_med") or np.isfinite(values).sum() == 3, name
    assert scores["open_recall"][[0, 2, 4]].tolist() == [1, 0, pytest.approx(1 / 3)]
    assert scores["closed_accuracy"][1::2].tolist() == [1, 0, 0]
    assert np.isnan(scores["closed_accuracy_llava_med"][3])
    assert scores["open_candidates"][[0, 2, 4]].tolist() == [1, 0, 0]
    assert {f"{name}_corrected" for name in ("open_recall", "open_f1", "open_exact_match", "open_bleu")} <= set(scores)


def test_means_are_weighted_and_a_set_scores_the_mean_of_open_and_closed():
    scores = _scores()
    recall, closed = scores["open_recall"], scores["closed_accuracy"]
    weights = np.array([[1.0] * 6, [2, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]])
    means = vqa.mean_statistic(recall)(weights)
    assert means[:2].tolist() == [pytest.approx(4 / 9), 1]
    assert np.isnan(means[2])
    assert vqa.dataset_statistic(recall, closed)(weights[:1])[0] == pytest.approx((4 / 9 + 1 / 3) / 2)


def test_intervals_resample_whole_images():
    values = np.tile([0.0, 1.0], 50)
    statistic = vqa.mean_statistic(values)
    by_question = bootstrap_interval(statistic, np.arange(100), seed=1)
    by_image = bootstrap_interval(statistic, np.repeat([0, 1] * 5, 10), seed=1)
    alike = bootstrap_interval(statistic, np.arange(100) // 2, seed=1)
    assert by_question.high - by_question.low == pytest.approx(0.2, abs=0.03)
    assert by_image.groups == 2
    assert alike.low == alike.high == 0.5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 predictions and 2 types for 2 references"):
        vqa.vqa_scores(["a"], ["a", "b"], ["OPEN", "OPEN"])
    with pytest.raises(ValueError, match="OPEN or CLOSED, got 'CLOSED '"):
        vqa.vqa_scores(["a"], ["a"], ["CLOSED "])
    with pytest.raises(ValueError, match="0 references"):
        vqa.vqa_scores([], [], [])
