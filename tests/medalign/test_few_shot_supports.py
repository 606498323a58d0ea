"""Which images a few-shot method learns from."""

import numpy as np
import pytest

from medalign.errors import CorpusError
from medalign.few_shot.supports import draw_support

LABELS = np.repeat([0, 1, 2], [60, 30, 10])
NAMES = ("a", "b", "c")


def test_supports_are_balanced_and_nested_over_shots():
    drawn = [set(draw_support(LABELS, NAMES, shots=shots, seed=3)) for shots in (1, 2, 4, 8)]
    for fewer, more in zip(drawn, drawn[1:], strict=False):
        assert fewer < more
    assert np.bincount(LABELS[list(drawn[-1])]).tolist() == [8, 8, 8]


def test_another_seed_draws_others_and_the_same_seed_the_same():
    first, again, other = (draw_support(LABELS, NAMES, shots=4, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_prevalence_follows_the_frequencies_and_leaves_no_class_out():
    sampled = draw_support(LABELS, NAMES, shots=10, seed=0, sampling="prevalence")
    assert np.bincount(LABELS[sampled]).tolist() == [18, 9, 3]
    rare = np.repeat([0, 1], [99, 1])
    assert np.bincount(rare[draw_support(rare, ("a", "b"), shots=2, seed=0, sampling="prevalence")])[1] == 1


def test_images_without_a_class_are_never_drawn():
    labels = np.where(np.arange(100) % 2, LABELS, -1)
    assert (labels[draw_support(labels, NAMES, shots=5, seed=0)] >= 0).all()


@pytest.mark.parametrize("sampling", ["balanced", "prevalence"])
def test_a_class_without_images_is_refused_by_name(sampling):
    with pytest.raises(CorpusError, match="class 'c' has 0 train images"):
        draw_support(LABELS[LABELS < 2], NAMES, shots=1, seed=0, sampling=sampling)


def test_more_shots_than_images_are_refused_in_one_line():
    with pytest.raises(CorpusError, match="class 'c' has 10 train images, fewer than the 16"):
        draw_support(LABELS, NAMES, shots=16, seed=0)
