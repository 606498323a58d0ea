import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linear_sum_assignment

from medalign_core.solvers.assignment import assign

BACKENDS = ["numpy", "compiled"]


def paid(affinity: np.ndarray, matching: np.ndarray) -> np.ndarray:
    rows = np.take_along_axis(affinity, np.maximum(matching, 0)[:, :, None], axis=2)[:, :, 0]
    return np.where(matching >= 0, rows, 0.0).sum(axis=1)


def is_matching(matching: np.ndarray) -> bool:
    return all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in matching)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 1, 1), (4, 16, 16), (2, 70, 70), (3, 5, 9), (3, 9, 5)])
def test_it_pays_what_scipys_pays(backend, shape):
    affinity = np.random.default_rng(0).normal(size=shape)
    matching = assign(affinity, backend=backend)
    assert is_matching(matching)
    assert ((matching >= 0).sum(axis=1) == min(shape[1:])).all()
    best = [table[linear_sum_assignment(table, maximize=True)].sum() for table in affinity]
    np.testing.assert_allclose(paid(affinity, matching), best)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_partial_assignment_is_the_full_one_with_as_many_dummies_as_nodes(backend):
    affinity = np.random.default_rng(1).normal(size=(20, 8, 8)) - 0.7
    matching = assign(affinity, partial=True, backend=backend)
    padded = np.zeros((20, 16, 16))
    padded[:, :8, :8] = affinity
    best = [table[linear_sum_assignment(table, maximize=True)].sum() for table in padded]
    assert is_matching(matching)
    assert (matching < 0).any()
    np.testing.assert_allclose(paid(affinity, matching), best)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_matched_where_no_pair_gains(backend):
    assert (assign(-np.ones((2, 4, 4)), partial=True, backend=backend) == -1).all()


@given(
    arrays.arrays(
        np.float64,
        st.integers(1, 7).map(lambda n: (2, n, n)),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, -1e30]),
    )
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_ties_zeros_and_huge_values_leave_it_exact(affinity):
    expected = paid(affinity, assign(affinity, backend="numpy"))
    np.testing.assert_allclose(paid(affinity, assign(affinity, backend="compiled")), expected, rtol=1e-12)


def test_it_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="affinities must be finite"):
        assign(np.full((1, 3, 3), np.nan))
