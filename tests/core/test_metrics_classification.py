"""Classification metrics against scikit-learn, brute force and closed forms."""

import numpy as np
import pytest
from sklearn import metrics as reference

from medalign_core.metrics.classification import (
    METRICS,
    accuracy,
    auroc,
    balanced_accuracy,
    classification_scores,
    confusion,
    macro_f1,
)


def problem(seed: int, samples: int = 90, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), draw.integers(0, classes, samples - classes)]
    logits = draw.normal(size=(samples, classes)) + 1.2 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, np.round(probabilities, 1) + 0.001 * np.arange(classes)  # rounding makes ties between samples


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_scikit_learn(seed: int) -> None:
    labels, probabilities = problem(seed)
    predicted = probabilities.argmax(1)
    scores = classification_scores(labels, probabilities)
    normal = probabilities / probabilities.sum(1, keepdims=True)
    assert tuple(scores) == METRICS
    assert float(scores["accuracy"]) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert float(scores["balanced_accuracy"]) == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert float(scores["macro_f1"]) == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    ours, theirs = auroc(labels, normal), reference.roc_auc_score(labels, normal, multi_class="ovr", average="macro")
    assert float(ours) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_samples_as_scikit_learn_counts_them(seed: int) -> None:
    labels, probabilities = problem(seed, classes=2)
    weights = np.random.default_rng(seed).integers(0, 4, len(labels)).astype(float)
    predicted, score = probabilities.argmax(1), probabilities[:, 1]
    table = confusion(labels, predicted, classes=2, weights=weights)
    np.testing.assert_allclose(table, reference.confusion_matrix(labels, predicted, sample_weight=weights))
    assert float(auroc(labels, score, weights=weights)) == pytest.approx(
        reference.roc_auc_score(labels, score, sample_weight=weights)
    )
    assert float(accuracy(table)) == pytest.approx(reference.accuracy_score(labels, predicted, sample_weight=weights))


def test_a_weight_of_two_equals_the_sample_given_twice() -> None:
    labels, probabilities = problem(7)
    weights = np.random.default_rng(7).integers(0, 3, len(labels))
    twice = np.repeat(np.arange(len(labels)), weights)
    weighted = classification_scores(labels, probabilities, weights=weights.astype(float))
    repeated = classification_scores(labels[twice], probabilities[twice])
    for name in METRICS:
        assert float(weighted[name]) == pytest.approx(float(repeated[name])), name


def test_replicates_are_computed_together_as_one_by_one() -> None:
    labels, probabilities = problem(3)
    weights = np.random.default_rng(0).integers(0, 3, (6, len(labels))).astype(float)
    together = classification_scores(labels, probabilities, weights=weights)
    for name in METRICS:
        alone = [float(classification_scores(labels, probabilities, weights=w)[name]) for w in weights]
        np.testing.assert_allclose(together[name], alone)


def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_as_half() -> None:
    labels = np.array([0, 1, 0, 1, 1, 0, 0])
    scores = np.array([0.1, 0.4, 0.4, 0.4, 0.9, 0.9, 0.0])
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert float(auroc(labels, scores)) == pytest.approx(np.mean(pairs))


def test_auroc_of_constant_scores_is_one_half_and_of_reversed_scores_the_complement() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    scores = np.array([0.2, 0.3, 0.1, 0.6, 0.9])
    assert float(auroc(labels, np.zeros(5))) == 0.5
    assert float(auroc(labels, scores)) + float(auroc(labels, -scores)) == pytest.approx(1.0)


def test_auroc_is_undefined_with_one_class_only() -> None:
    assert np.isnan(auroc(np.zeros(4, dtype=int), np.arange(4.0)))
    assert np.isnan(auroc(np.zeros(4, dtype=int), np.arange(12.0).reshape(4, 3)))


def test_two_columns_give_the_binary_area() -> None:
    labels, probabilities = problem(1, classes=2)
    positive = probabilities[:, 1] / probabilities.sum(1)
    both = np.stack([1 - positive, positive], axis=1)
    assert float(auroc(labels, both)) == pytest.approx(float(auroc(labels, positive)))


def test_absent_classes_count_neither_in_recall_nor_in_f1() -> None:
    table = np.array([[3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert float(balanced_accuracy(table)) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert float(macro_f1(table)) == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert np.isnan(balanced_accuracy(np.zeros((2, 2))))


def test_one_metric_can_be_asked_for_alone() -> None:
    labels, probabilities = problem(2)
    everything = classification_scores(labels, probabilities)
    assert classification_scores(labels, probabilities, metrics=["auroc"]) == {"auroc": everything["auroc"]}
    with pytest.raises(ValueError, match="no metric 'dice'"):
        classification_scores(labels, probabilities, metrics=["dice"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.array([0, 3]), "lie in"), (np.array([0.0, 1.0]), "integers"), (np.array([], dtype=int), "non-empty")],
)
def test_labels_that_are_no_class_indices_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(labels, np.array([0, 1]), classes=3)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([0, 1]), np.array([0.1, np.nan]))
