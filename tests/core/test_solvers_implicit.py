import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from core_problems import noisy_views
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import edge_affinity, edge_directions
from medalign_core.ops.graphs import knn_edges
from medalign_core.solvers import affinities as affinities_module
from medalign_core.solvers.affinities import Affinities, Perturbations, matching_problem
from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult, Status
from medalign_core.solvers.implicit import MatchingGradient, MatchingLoss, paid_entries, score_difference
from medalign_core.solvers.matching_problem import MatchingProblem, score
from medalign_core.solvers.matching_target import hamming

SOLVER = GraphMatching()
PARTIAL = GraphMatching(partial=True)
IDENTITY = np.arange(16)


def tables(problem: MatchingProblem) -> Affinities:
    """A problem's tables as leaves: the affinities are those of the perturbed problem here."""
    return Affinities(
        vertex=torch.tensor(problem.vertex_affinity, requires_grad=True),
        edge=torch.tensor(problem.edge_affinity, requires_grad=True),
        edges_s=torch.tensor(problem.edges_s),
        edges_t=torch.tensor(problem.edges_t),
    )


def gradients(
    problem: MatchingProblem,
    *,
    scale: float = 1.0,
    solver: GraphMatching = SOLVER,
    always_solve: bool = False,
    **gradient,
) -> tuple[MatchingLoss, np.ndarray, np.ndarray]:
    affinities = tables(problem)
    matched = MatchingGradient(**gradient)(affinities, solver, always_solve=always_solve)
    (matched.loss.sum() * scale).backward()
    return matched, affinities.vertex.grad.numpy(), affinities.edge.grad.numpy()


def of_nodes(nodes: list[Tensor], form: str, neighbours: int = 3, offset: float = 0.0, **more) -> Affinities:
    """Affinities of two views' nodes; every form has the same values."""
    edges = [knn_edges(x.float(), neighbours) for x in nodes]
    parts: dict[str, Tensor] = {}
    if form == "table":
        parts["edge"] = edge_affinity(*nodes, *edges) + offset
        offset = 0.0
    elif form == "features":
        parts = {f"edge_features_{side}": edge_directions(x, e) for side, x, e in zip("st", nodes, edges, strict=True)}
    else:
        parts = {"nodes_s": nodes[0], "nodes_t": nodes[1]}
    return Affinities(
        vertex=cosine_table(*nodes), edges_s=edges[0], edges_t=edges[1], edge_offset=offset, **parts, **more
    )


def views(graphs: int, *, nodes: int = 8, size: int = 12, sigma: float = 1.5, dtype=torch.float64) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    s = torch.randn(graphs, nodes, size, generator=draws, dtype=torch.float64)
    t = s + sigma * torch.randn(s.shape, generator=draws, dtype=torch.float64)
    return [s.to(dtype).requires_grad_(), t.to(dtype).requires_grad_()]


@pytest.mark.parametrize("gumbel", [0.0, 0.05, 1.0])
def test_skipping_the_second_solve_changes_no_gradient(gumbel):
    problem = noisy_views(8, sigma=2.0, gumbel=gumbel)
    skipped, exact = gradients(problem), gradients(problem, always_solve=True)
    assert not skipped[0].target_solved.any()
    assert exact[0].target_solved.all()
    assert (skipped[1] == exact[1]).all()
    assert (skipped[2] == exact[2]).all()


def test_the_gradient_is_exactly_zero_where_the_identity_is_found():
    matched, vertex, edge = gradients(noisy_views(4, sigma=0.2))
    assert (matched.solution.matching == IDENTITY).all()
    assert (matched.loss == 0).all()
    assert (vertex == 0).all()
    assert (edge == 0).all()


@pytest.mark.parametrize("strength", [5.0, 80.0])
def test_the_gradient_holds_units_over_lambda_whose_rows_and_columns_cancel(strength):
    matched, vertex, edge = gradients(noisy_views(6, gumbel=1.0), strength=strength)
    assert (matched.solution.matching != IDENTITY).any(axis=1).all()
    np.testing.assert_allclose(vertex.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(vertex.sum(axis=2), 0, atol=1e-15)
    for table in (vertex, edge):
        assert np.isin(np.round(table * strength, 12), (-1, 0, 1)).all()
    assert (np.abs(edge).sum(axis=(1, 2)) > 0).all()  # though no edge affinity is shifted


def test_the_saturated_gradient_is_that_of_a_structured_perceptron():
    problem = noisy_views(4, gumbel=1.0)
    matched, vertex, edge = gradients(problem)
    matching = matched.solution.matching
    for g in range(4):
        expected = (np.eye(16)[matching[g]] - np.eye(16)) / 80
        np.testing.assert_allclose(vertex[g], expected)
        for e, (i, j) in enumerate(problem.edges_s[g]):
            for f, (a, b) in enumerate(problem.edges_t[g]):
                found = matching[g, i] == a and matching[g, j] == b
                assert edge[g, e, f] == pytest.approx((float(found) - float(i == a and j == b)) / 80)


@pytest.mark.parametrize("strength", [1.0, 80.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 65536.0])
def test_the_gradient_is_linear_in_what_comes_in(strength, scale):
    problem = noisy_views(4, gumbel=1.0)
    _, vertex, edge = gradients(problem, strength=strength)
    _, scaled_vertex, scaled_edge = gradients(problem, strength=strength, scale=scale)
    assert np.abs(vertex).max() > 0
    np.testing.assert_allclose(scaled_vertex / scale, vertex, rtol=1e-12)
    np.testing.assert_allclose(scaled_edge / scale, edge, rtol=1e-12)


def scaled_by_amp(estimator: str) -> list[Tensor]:
    """The gradient of one weight after a mixed-precision scaler has scaled and unscaled it, and the plain one."""
    nodes, found = views(2, sigma=2.0), []
    for scale in (65536.0, 1.0):
        weight = torch.ones(12, requires_grad=True)
        affinities = of_nodes([x.detach() * weight for x in nodes], "nodes")
        loss = MatchingGradient(strength=1.0, estimator=estimator)(affinities, SOLVER).loss.mean()
        (scale * loss).backward()
        found.append(weight.grad / scale)
    return found


def test_a_gradient_scaler_changes_nothing():
    scaled, plain = scaled_by_amp("homogeneous")
    assert plain.abs().max() > 0
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)


def test_a_gradient_scaler_all_but_deletes_the_published_gradient():
    scaled, plain = scaled_by_amp("compat")
    assert plain.norm() > 0
    assert scaled.norm() < 1e-3 * plain.norm()


def test_one_batch_of_four_graphs_equals_two_accumulated_of_two():
    nodes = views(4, sigma=2.0)
    MatchingGradient()(of_nodes(nodes, "nodes"), SOLVER).loss.mean().backward()
    whole = [x.grad.clone() for x in nodes]
    for x in nodes:
        x.grad = None
    for half in (slice(0, 2), slice(2, 4)):
        (MatchingGradient()(of_nodes([x[half] for x in nodes], "nodes"), SOLVER).loss.mean() / 2).backward()
    assert whole[0].abs().max() > 0
    for x, expected in zip(nodes, whole, strict=True):
        torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 100.0])
def test_the_published_estimator_is_the_linear_one_of_a_lambda_that_comes_in(scale):
    problem = noisy_views(6, sigma=2.0, gumbel=0.3)
    published = gradients(problem, strength=2.0, scale=scale, estimator="compat")
    linear = gradients(problem, strength=2.0 * scale, scale=scale)
    np.testing.assert_allclose(published[1], linear[1], rtol=1e-12)
    np.testing.assert_allclose(published[2], linear[2], rtol=1e-12)


def test_the_published_estimator_does_not_grow_with_what_comes_in_and_its_value_is_the_hamming_loss():
    problem = noisy_views(6, sigma=2.0, gumbel=0.3)
    lengths = [np.abs(gradients(problem, strength=80.0, scale=c, estimator="compat")[1]).sum() for c in (1, 1000)]
    assert lengths[0] == lengths[1] > 0  # saturated: no trace of the factor
    matched, vertex, _ = gradients(problem, strength=80.0, scale=0.0, estimator="compat")
    np.testing.assert_allclose(matched.loss.detach().numpy(), hamming(matched.solution.matching))
    assert (vertex == 0).all()
    ascending = gradients(problem, strength=0.5, scale=-1.0, estimator="compat")[1]
    assert not np.allclose(ascending, -gradients(problem, strength=0.5, estimator="compat")[1])


@pytest.mark.parametrize("form", ["table", "features", "nodes"])
def test_the_published_estimator_reaches_the_nodes_in_every_form(form):
    nodes = views(3, sigma=2.0)
    for estimator in ("homogeneous", "compat"):
        for x in nodes:
            x.grad = None
        MatchingGradient(estimator=estimator)(of_nodes(nodes, form), SOLVER).loss.sum().backward()
        found = [x.grad.clone() for x in nodes]
        if estimator == "homogeneous":
            expected = found
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_a_small_step_down_raises_the_identity_over_what_was_found():
    problem = noisy_views(6, gumbel=1.0)
    matched, vertex, edge = gradients(problem)
    stepped = replace(
        problem, vertex_affinity=problem.vertex_affinity - vertex, edge_affinity=problem.edge_affinity - edge
    )
    truth, matching = np.tile(IDENTITY, (6, 1)), matched.solution.matching
    before = score(problem, truth) - score(problem, matching)
    after = score(stepped, truth) - score(stepped, matching)
    assert (after > before).all()


@pytest.mark.parametrize("form", ["table", "features", "nodes"])
@pytest.mark.parametrize("solver", [SOLVER, PARTIAL])
def test_the_loss_is_the_difference_of_the_solvers_scores_over_lambda(form, solver):
    nodes = views(4, sigma=2.0)
    affinities = of_nodes(nodes, form, offset=-0.2)
    affinities = replace(affinities, vertex=affinities.vertex - 0.2)
    matched = MatchingGradient(strength=80.0)(affinities, solver)
    problem = matching_problem(affinities)
    truth = np.tile(np.arange(8), (4, 1))
    expected = (score(problem, matched.solution.matching) - score(problem, truth)) / 80
    np.testing.assert_allclose(matched.loss.detach().numpy(), expected, atol=1e-12)
    assert (expected > 0).any()


@pytest.mark.parametrize("form", ["table", "features", "nodes"])
def test_the_loss_passes_a_gradient_check_down_to_the_nodes(form):
    nodes, solver = views(1, nodes=4, size=2, sigma=4.0), GraphMatching(starts=2)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return MatchingGradient(strength=5.0)(of_nodes([s, t], form, neighbours=2), solver).loss

    assert loss(*nodes).abs().max() > 0
    assert torch.autograd.gradcheck(loss, nodes)
    assert torch.autograd.gradgradcheck(loss, nodes)


@pytest.mark.parametrize("form", ["features", "nodes"])
@pytest.mark.parametrize("solver", [SOLVER, PARTIAL])
def test_the_gradient_in_factor_form_equals_that_through_the_table(form, solver):
    nodes = views(4, sigma=2.0)
    found = {}
    for kind in ("table", form):
        for x in nodes:
            x.grad = None
        MatchingGradient(strength=5.0)(of_nodes(nodes, kind, offset=-0.1), solver).loss.sum().backward()
        found[kind] = [x.grad.clone() for x in nodes]
    assert found["table"][0].abs().max() > 0
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return found


@pytest.mark.parametrize("form", ["features", "nodes"])
@pytest.mark.parametrize("estimator", ["homogeneous", "compat"])
def test_in_factor_form_no_tensor_has_the_size_of_the_edge_table(form, estimator):
    nodes = views(1, nodes=80, size=16)
    saved, watch = [], LargestTensor()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x), watch:
        affinities = of_nodes(nodes, form, neighbours=5)
        MatchingGradient(estimator=estimator)(affinities, GraphMatching(starts=2)).loss.sum().backward()
    edges = 80 * 5
    assert matching_problem(affinities).edge_affinity is None
    assert nodes[0].grad.abs().max() > 0
    assert max(saved) <= edges * 16  # features at most
    assert watch.elements <= 2 * edges * 16 < edges * edges


def test_several_samples_are_averaged():
    draws, nodes = np.random.default_rng(0), views(3, sigma=1.0)
    affinities = of_nodes(nodes, "features")
    noise = Perturbations(vertex=draws.gumbel(size=(4, 3, 8, 8)), edge=draws.gumbel(size=(4, 3, 24, 24)))
    together = MatchingGradient()(affinities, SOLVER, noise)
    assert together.solution.matching.shape == (12, 8)
    alone = [
        MatchingGradient()(
            affinities, SOLVER, Perturbations(vertex=noise.vertex[r : r + 1], edge=noise.edge[r : r + 1])
        )
        for r in range(4)
    ]
    torch.testing.assert_close(together.loss, torch.stack([one.loss for one in alone]).mean(dim=0))
    assert (together.solution.matching[3:6] == alone[1].solution.matching).all()
    slopes = [torch.autograd.grad(one.loss.sum(), nodes, retain_graph=True) for one in (together, *alone)]
    for side in (0, 1):
        torch.testing.assert_close(slopes[0][side], torch.stack([s[side] for s in slopes[1:]]).mean(dim=0))


def test_perturbed_vertices_leave_factors_as_they_are_and_perturbed_edges_make_a_table(monkeypatch):
    monkeypatch.setattr(affinities_module, "TABLE_ENTRIES", 24 * 24 - 1)
    affinities = of_nodes(views(2), "nodes", offset=0.5)
    vertex = np.ones((2, 2, 8, 8))
    kept = matching_problem(affinities, Perturbations(vertex=vertex))
    assert kept.edge_affinity is None
    assert kept.edge_features_s.shape == (4, 24, 12)
    table = matching_problem(affinities, Perturbations(vertex=vertex, edge=np.full((2, 2, 24, 24), 3.0)))
    assert table.edge_features_s is None
    np.testing.assert_allclose(table.edge_affinity, kept.dense_edge_affinity() + 3.0)
    np.testing.assert_allclose(table.vertex_affinity[2:], affinities.vertex.detach().numpy() + 1.0)


@pytest.mark.parametrize("form", ["features", "nodes"])
def test_whether_the_solver_is_given_factors_or_their_small_table_makes_no_difference(form, monkeypatch):
    affinities = of_nodes(views(4, sigma=2.0), form, offset=-0.1)
    small = MatchingGradient(strength=3.0)(affinities, SOLVER)
    table = matching_problem(affinities)
    assert table.edge_features_s is None
    np.testing.assert_allclose(table.edge_affinity, affinities.edge_table().detach(), atol=1e-15)
    monkeypatch.setattr(affinities_module, "TABLE_ENTRIES", 0)
    large = MatchingGradient(strength=3.0)(affinities, SOLVER)
    assert matching_problem(affinities).edge_affinity is None
    assert (large.solution.matching == small.solution.matching).all()
    torch.testing.assert_close(large.loss, small.loss)
    assert (small.loss != 0).any()


@pytest.mark.parametrize("form", ["table", "features", "nodes"])
def test_what_is_in_a_hole_gets_no_gradient_and_changes_none(form):
    valid = torch.ones(2, 8, dtype=torch.bool)
    valid[0, [1, 6]] = False
    found = []
    for fill in (0.0, 100.0):
        leaves = [torch.where(valid[..., None], x.detach(), fill).requires_grad_() for x in views(2, sigma=2.0)]
        edges = [knn_edges(x, 3, valid=valid) for x in leaves]
        affinities = replace(of_nodes(leaves, form), valid=valid)
        if form == "nodes":  # the list of edges must not depend on what is in a hole
            affinities = replace(affinities, edges_s=edges[0], edges_t=edges[1])
            matched = MatchingGradient()(affinities, SOLVER)
            found.append((matched.loss.detach(), torch.autograd.grad(matched.loss.sum(), leaves)))
        else:
            matched = MatchingGradient()(affinities, SOLVER)
            slopes = torch.autograd.grad(matched.loss.sum(), leaves)
            assert all((slope[~valid] == 0).all() for slope in slopes)
    if form == "nodes":
        torch.testing.assert_close(found[0][0], found[1][0])
        for one, other in zip(found[0][1], found[1][1], strict=True):
            assert (one[~valid] == 0).all()
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_affinities_are_scored_in_single_precision(dtype):
    nodes = views(2, sigma=2.0, dtype=dtype)
    for form in ("table", "features", "nodes"):
        matched = MatchingGradient()(of_nodes(nodes, form), SOLVER)
        (slope,) = torch.autograd.grad(matched.loss.sum(), nodes[:1])
        assert matched.loss.dtype == torch.float32
        assert slope.dtype == dtype
        assert slope.isfinite().all()


def test_affinities_that_are_not_finite_end_in_a_loss_that_is_not_finite_for_their_graph_only():
    problem = noisy_views(3, gumbel=1.0)
    problem.vertex_affinity[1, 4, 5] = np.nan
    for estimator in ("homogeneous", "compat"):
        matched, vertex, _ = gradients(problem, estimator=estimator)
        assert matched.solution.status[1] == Status.FAILED
        assert matched.loss.isnan().tolist() == [False, True, False]
        assert np.isfinite(vertex[[0, 2]]).all()


def test_on_a_hand_case_the_gradient_is_the_difference_of_two_matchings_over_lambda():
    nowhere = np.zeros((1, 0, 2), dtype=np.int64)
    problem = MatchingProblem(
        vertex_affinity=np.array([[[0.0, 1.0], [1.0, 0.0]]]),
        edge_affinity=np.zeros((1, 0, 0)),
        edges_s=nowhere,
        edges_t=nowhere,
    )
    swap_less_identity = np.array([[[-1.0, 1.0], [1.0, -1.0]]])
    for strength in (1.0, 4.0):  # V - lambda (1 - 2 I) has the identity on top for lambda > 1/2
        matched, vertex, _ = gradients(problem, strength=strength)
        assert matched.solution.matching.tolist() == [[1, 0]]
        np.testing.assert_allclose(vertex, swap_less_identity / strength)
        np.testing.assert_allclose(matched.loss.detach().numpy(), 2.0 / strength)
    assert (gradients(problem, strength=0.3)[1] == 0).all()  # the swap stays on top


def test_on_a_partial_hand_case_nodes_enter_and_leave_one_by_one():
    nowhere = np.zeros((1, 0, 2), dtype=np.int64)
    problem = MatchingProblem(
        vertex_affinity=np.array([[[-0.4, 0.3], [-2.0, -0.8]]]),
        edge_affinity=np.zeros((1, 0, 0)),
        edges_s=nowhere,
        edges_t=nowhere,
    )
    expected = {
        0.2: np.zeros((2, 2)),  # 0.1 above 0: the wrong pair stays
        0.5: np.array([[-1.0, 1.0], [0.0, 0.0]]),  # node 0 moves to its own, node 1 stays out
        2.0: np.array([[-1.0, 1.0], [0.0, -1.0]]),  # both are right
    }
    for strength, difference in expected.items():
        matched, vertex, _ = gradients(problem, strength=strength, solver=PARTIAL)
        assert matched.solution.matching.tolist() == [[1, -1]]
        np.testing.assert_allclose(vertex[0], difference / strength, atol=1e-15)


def test_partial_identical_graphs_match_to_the_identity_with_no_loss_and_no_gradient():
    x = views(3)[0].detach()
    nodes = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    affinities = of_nodes(nodes, "nodes", offset=-0.5)
    matched = MatchingGradient()(replace(affinities, vertex=affinities.vertex - 0.5), PARTIAL)
    matched.loss.sum().backward()
    assert (matched.solution.matching == np.arange(8)).all()
    assert (matched.loss == 0).all()
    assert all((x.grad == 0).all() for x in nodes)


def test_partial_a_permuted_graph_is_recovered():
    x = views(3)[0].detach()
    order = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(g)) for g in range(3)])
    nodes = [x, x.gather(1, order[..., None].expand_as(x))]  # node a of t is node order[a] of s
    affinities = of_nodes(nodes, "nodes", offset=-0.5)
    matched = MatchingGradient()(replace(affinities, vertex=affinities.vertex - 0.5), PARTIAL)
    assert (matched.solution.matching == order.argsort(dim=1).numpy()).all()
    assert (matched.loss > 0).all()


def test_partial_affinities_below_zero_leave_everyone_out_and_the_gradient_invites_the_right_pairs():
    nodes = views(2, sigma=2.0)
    affinities = of_nodes(nodes, "features", offset=-2.0)
    vertex = (affinities.vertex - 2.0).detach().requires_grad_()
    matched = MatchingGradient(strength=80.0)(replace(affinities, vertex=vertex), PARTIAL)
    assert (matched.solution.matching == -1).all()
    np.testing.assert_allclose(hamming(matched.solution.matching) / 8, 1.0)
    (slope,) = torch.autograd.grad(matched.loss.sum(), vertex)
    torch.testing.assert_close(slope, -torch.eye(8, dtype=slope.dtype).expand(2, 8, 8) / 80)


def test_entries_that_both_matchings_pay_cancel_before_they_are_formed():
    problem = noisy_views(2, sigma=2.0)
    matching = np.tile(IDENTITY, (2, 1))
    matching[1, [2, 3]] = [3, 2]
    entries = paid_entries(problem, matching, np.tile(IDENTITY, (2, 1)), graphs=2)
    assert sorted(map(tuple, entries.vertex)) == [(1, 2, 2), (1, 2, 3), (1, 3, 2), (1, 3, 3)]
    touched = ((problem.edges_s[1] == 2) | (problem.edges_s[1] == 3)).any(axis=1)
    assert (entries.edge[:, 0] == 1).all()
    assert touched[entries.edge[:, 1]].all()
    value = score_difference(tables(problem), entries, edge_weight=0.7).detach().numpy()
    expected = [score(problem, p, edge_weight=0.7) for p in (matching, np.tile(IDENTITY, (2, 1)))]
    np.testing.assert_allclose(value, expected[0] - expected[1], atol=1e-12)


def test_settings_and_forms_that_cannot_work_raise():
    with pytest.raises(ValueError, match=r"strength \(lambda\) must be > 0 and finite, got 0"):
        MatchingGradient(strength=0.0)
    affinities = of_nodes(views(1), "nodes")
    with pytest.raises(ValueError, match="takes one sample, got 2"):
        MatchingGradient(estimator="compat")(affinities, SOLVER, Perturbations(vertex=np.zeros((2, 1, 8, 8))))
    with pytest.raises(ValueError, match="give edge, or edge_features_s and edge_features_t, or nodes_s and nodes_t"):
        replace(affinities, nodes_t=None)
    with pytest.raises(ValueError, match="give edge"):
        replace(affinities, edge=affinities.edge_table())
    with pytest.raises(ValueError, match="no factors"):
        of_nodes(views(1), "table").factors()


@dataclass(frozen=True, kw_only=True)
class Enumeration(GraphMatching):
    """Solves problems of 4 nodes that share the edges of one, by all 24 matchings; F at theta is `features` @ theta."""

    one: MatchingProblem

    def matchings(self) -> np.ndarray:
        return np.array(list(itertools.permutations(range(4))))

    def features(self) -> np.ndarray:
        rows = []
        for p in self.matchings():
            ends = p[self.one.edges_s[0]]
            hit = (ends[:, None] == self.one.edges_t[0][None]).all(axis=2)
            rows.append(np.concatenate([np.eye(4)[p].ravel(), hit.ravel()]))
        return np.array(rows, dtype=np.float64)

    def __call__(self, problem: MatchingProblem) -> MatchingResult:
        count = len(problem.vertex_affinity)
        theta = [problem.vertex_affinity.reshape(count, -1), problem.edge_affinity.reshape(count, -1)]
        values = np.concatenate(theta, axis=1) @ self.features().T
        return MatchingResult(
            matching=self.matchings()[values.argmax(axis=1)],
            objective=values.max(axis=1),
            status=np.full(count, int(Status.CONVERGED)),
            iterations=np.ones(count, dtype=np.int64),
        )

    def expected_hamming_gradient(self, theta: np.ndarray, noise: np.ndarray, step: float) -> np.ndarray:
        """Central differences of the mean Hamming loss over the same noise."""
        features, loss = self.features(), hamming(self.matchings())
        values = (theta + noise) @ features.T
        slopes = []
        for column in features.T:
            ahead, behind = (loss[(values + s * column).argmax(axis=1)].mean() for s in (step, -step))
            slopes.append((ahead - behind) / (2 * step))
        return np.array(slopes)


def alignment(one: MatchingProblem, *, strength: float, gumbel: float) -> float:
    """Cosine between the estimator, averaged over 40,000 draws, and finite differences over the same draws."""
    enumeration, count = Enumeration(one=one), 40_000
    noise = gumbel * np.random.default_rng(0).gumbel(size=(count, 16 + 64))
    perturbations = Perturbations(
        vertex=noise[:, :16].reshape(count, 1, 4, 4), edge=noise[:, 16:].reshape(count, 1, 8, 8)
    )
    affinities = tables(one)
    MatchingGradient(strength=strength)(affinities, enumeration, perturbations).loss.sum().backward()
    estimate = np.concatenate([x.grad.numpy().ravel() for x in (affinities.vertex, affinities.edge)])
    theta = np.concatenate([one.vertex_affinity.ravel(), one.edge_affinity.ravel()])
    exact = enumeration.expected_hamming_gradient(theta, noise, step=0.2 * gumbel)
    return float(estimate @ exact / (np.linalg.norm(estimate) * np.linalg.norm(exact)))


@pytest.mark.parametrize(
    ("strength", "gumbel"), [(0.3, 1.0), (1.0, 1.0), (5.0, 1.0), (80.0, 1.0), (0.3, 0.3), (80.0, 0.3)]
)
def test_the_averaged_estimator_points_along_the_gradient_of_the_expected_hamming_loss(strength, gumbel):
    one = noisy_views(1, nodes=4, neighbours=2, sigma=1.0, seed=2)
    assert alignment(one, strength=strength, gumbel=gumbel) >= 0.9


def test_where_the_truth_is_out_of_reach_only_a_small_lambda_keeps_the_direction():
    one = noisy_views(1, nodes=4, neighbours=2, sigma=1.0, size=3, seed=0)  # wrong in 99 % of the draws
    assert alignment(one, strength=0.3, gumbel=1.0) >= 0.98
    assert alignment(one, strength=80.0, gumbel=1.0) <= 0.5
