"""The probe: what its heads compute, how they are chosen, and that the test split chooses nothing."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from medalign.evaluation.heads import logistic, neighbours, standardise
from medalign.evaluation.probe import ProbeSettings, Split, probe
from medalign.evaluation.result import Samples


def blobs(seed: int, *, samples: int = 120, dims: int = 6, apart: float = 1.5, classes: int = 3) -> Split:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dims)) * apart
    labels = np.arange(samples) % classes
    names = np.array([f"{seed}-{i}" for i in range(samples)], dtype=object)
    groups = np.array([f"patient-{seed}-{i // 2}" for i in range(samples)], dtype=object)
    features = centres[labels] + draw.normal(size=(samples, dims))
    return Split(features=features, samples=Samples(ids=names, groups=groups, labels=labels))


def relabelled(split: Split, labels: np.ndarray, groups: np.ndarray | None = None) -> Split:
    s = split.samples
    groups = s.groups if groups is None else groups
    return Split(features=split.features, samples=Samples(ids=s.ids, groups=groups, labels=labels))


def test_separable_classes_are_told_apart_and_shuffled_labels_are_not() -> None:
    train, test = blobs(0), blobs(1)
    found = probe(train, test, classes=3)
    shuffled = relabelled(train, np.random.default_rng(0).permutation(train.samples.labels))
    chance = probe(shuffled, test, classes=3)
    for good, bad in zip(found.predictions, chance.predictions, strict=True):
        np.testing.assert_allclose(good.probabilities.sum(1), 1)
        assert (good.probabilities.argmax(1) == test.samples.labels).mean() > 0.9
        assert (bad.probabilities.argmax(1) == test.samples.labels).mean() < 0.6
    assert [p.head for p in found.predictions] == ["logistic", "knn"]
    assert found.notes == ()


def test_the_test_split_chooses_nothing() -> None:
    train, test = blobs(2, apart=0.4), blobs(3, apart=0.4)
    first = probe(train, test, classes=3)
    second = probe(train, relabelled(test, np.roll(test.samples.labels, 1)), classes=3)
    for one, other in zip(first.predictions, second.predictions, strict=True):
        assert one.chosen == other.chosen
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_probing_twice_gives_the_same_numbers() -> None:
    once, twice = (probe(blobs(4), blobs(5), classes=3) for _ in range(2))
    for one, other in zip(once.predictions, twice.predictions, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_features_may_be_rescaled_and_shifted_without_effect() -> None:
    train, test = blobs(6), blobs(7)
    scale, shift = np.array([1e-3, 1, 10, 100, 1, 5.0]), 7.0
    moved = [Split(features=s.features * scale + shift, samples=s.samples) for s in (train, test)]
    for one, other in zip(probe(train, test, classes=3).predictions, probe(*moved, classes=3).predictions, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def test_folds_keep_groups_whole_so_that_copies_do_not_choose_one_neighbour() -> None:
    draw = np.random.default_rng(8)
    features = np.repeat(draw.normal(size=(40, 5)), 6, axis=0) + 1e-3 * draw.normal(size=(240, 5))
    labels = np.repeat((draw.random(40) < 0.5).astype(int), 6)  # nothing to learn but which patient it is
    ids = np.arange(240).astype(str).astype(object)
    patients = np.repeat(np.arange(40), 6).astype(str).astype(object)
    test = blobs(9, dims=5, classes=2)
    by_patient = Split(features=features, samples=Samples(ids=ids, groups=patients, labels=labels))
    by_image = Split(features=features, samples=Samples(ids=ids, groups=ids, labels=labels))
    grouped, leaky = (probe(s, test, classes=2).predictions[1].chosen for s in (by_patient, by_image))
    assert leaky <= 5  # copies on both sides: the nearest are the same patient
    assert grouped > 5


def test_a_validation_split_chooses_where_there_is_one() -> None:
    train, test = blobs(10, apart=0.8), blobs(11, apart=0.8)
    settings = ProbeSettings(neighbours=(1, 40), temperature=10.0)
    # The training rows themselves as validation split: there one neighbour is perfect.
    assert probe(train, test, classes=3, validation=train, settings=settings).predictions[1].chosen == 1
    assert probe(train, test, classes=3, settings=settings).predictions[1].chosen == 40


def test_a_class_without_training_rows_is_never_called() -> None:
    train, test = blobs(12, classes=2), blobs(13, classes=3)
    for prediction in probe(train, test, classes=3).predictions:
        assert (prediction.probabilities[:, 2] == 0).all()


def test_a_class_with_one_sample_does_not_stop_the_probe() -> None:
    train = blobs(14)
    labels = np.where(np.arange(120) == 0, 2, train.samples.labels % 2)
    assert len(probe(relabelled(train, labels), blobs(15), classes=3).predictions) == 2


def test_too_few_iterations_are_reported() -> None:
    found = probe(blobs(16), blobs(17), classes=3, settings=ProbeSettings(iterations=1))
    assert any("did not converge at C = 1." in note for note in found.notes)


@pytest.mark.parametrize("fault", ["one class", "one group", "not finite"])
def test_what_cannot_be_probed_is_refused(fault: str) -> None:
    train, test = blobs(18), blobs(19)
    if fault == "one class":
        train, message = relabelled(train, np.zeros(120, dtype=int)), "two classes"
    elif fault == "one group":
        train, message = relabelled(train, train.samples.labels, np.array(["p"] * 120, dtype=object)), "two groups"
    else:
        message = "not finite"
        train.features[3, 2] = np.nan
    with pytest.raises(ValueError, match=message):
        probe(train, test, classes=3)


def test_logistic_minimises_its_objective() -> None:
    train, labels = blobs(20, samples=40, dims=3, classes=2).features, np.arange(40) % 2
    test, penalty = blobs(21, samples=9, dims=3).features, 0.3

    def objective(w: np.ndarray) -> float:
        margin = (2 * labels - 1) * (train @ w[:3] + w[3])
        return w[:3] @ w[:3] / 2 + penalty * np.logaddexp(0, -margin).sum()

    best = minimize(objective, np.zeros(4), tol=1e-10).x
    found, unconverged = logistic(train, labels, test, penalties=[penalty], classes=2, iterations=1000)
    np.testing.assert_allclose(found[0][:, 1], 1 / (1 + np.exp(-(test @ best[:3] + best[3]))), atol=1e-3)
    assert unconverged == ()


def test_rotating_into_the_row_space_changes_nothing() -> None:
    wide = blobs(22, samples=30, dims=80)
    train, test = standardise(wide.features, wide.features), standardise(blobs(23, dims=80).features, wide.features)
    found, _ = logistic(train, wide.samples.labels, test, penalties=[0.01], classes=3, iterations=1000)
    direct = LogisticRegression(C=0.01, max_iter=1000).fit(train, wide.samples.labels).predict_proba(test)
    np.testing.assert_allclose(found[0], direct, atol=1e-4)


def test_neighbours_equal_scikit_learn_with_the_same_weights() -> None:
    train, test = blobs(24), blobs(25)
    ours = neighbours(
        train.features, train.samples.labels, test.features, counts=[1, 7, 20], classes=3, temperature=0.07
    )
    for place, count in enumerate([1, 7, 20]):
        reference = KNeighborsClassifier(count, metric="cosine", weights=lambda d: np.exp(-d / 0.07))
        theirs = reference.fit(train.features, train.samples.labels).predict_proba(test.features)
        np.testing.assert_allclose(ours[place], theirs, atol=1e-8)


def test_neighbours_of_a_zero_vector_are_finite() -> None:
    found = neighbours(np.eye(3), np.arange(3), np.zeros((1, 3)), counts=[3], classes=3, temperature=0.07)
    np.testing.assert_allclose(found[0], 1 / 3)


def test_constant_features_standardise_to_zero() -> None:
    features = np.c_[np.full(5, 0.7), np.arange(5.0)]
    found = standardise(features, features)
    np.testing.assert_array_equal(found[:, 0], 0)
    assert found[:, 1].std() == pytest.approx(1)
