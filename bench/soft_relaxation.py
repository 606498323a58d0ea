"""One matching step, features -> affinities -> solve -> gradient, against the same step through a soft relaxation.

python bench/soft_relaxation.py [--repeats N] [--starts N]

The yardstick is a graduated assignment (Gold and Rangarajan 1996), unrolled by autograd: 10 outer steps, each of the
quadratic form's gradient and 10 Sinkhorn sweeps in the log domain, on a matching that is then compared with the
identity. Its sums over the edges out of a node are by reshape, as k-NN edges lie node by node. "soft" sums over the
edges into a node as well, which the gradient of the same objective takes; "soft, half" leaves those out.
CPU time, medians, one thread; run it on a pinned core: taskset -c 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import edge_directions
from medalign_core.ops.graphs import knn_edges
from medalign_core.solvers.affinities import Affinities, draw_perturbations
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.implicit import MatchingGradient
from medalign_core.solvers.noise import Noise

NEIGHBOURS, WIDTH, OUTER, SWEEPS, TEMPERATURE = 5, 128, 10, 10, 0.1
SHAPES = ((8, 16), (1, 16), (1, 32), (1, 64), (8, 64), (1, 128))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--starts", type=int, help="of the solver (default: its own)")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    solver = GraphMatching() if arguments.starts is None else GraphMatching(starts=arguments.starts)
    torch.set_num_threads(1)
    header = " ".join(f"{name:>14}" for name in ("soft ms", "soft, half ms", "factors ms", "edge noise ms"))
    print(f"{'graphs x nodes':>15} {header}  ratios to soft, and to its half")
    for graphs, size in SHAPES:
        views = _views(graphs, size)
        edges = [knn_edges(view, NEIGHBOURS) for view in views]
        noise = Noise(scale=0.05)
        losses = (
            soft_loss,
            partial(soft_loss, both_ends=False),
            partial(matching_loss, solver),
            partial(matching_loss, solver, noise=noise),
        )
        ways = [partial(_descend, loss, views, edges) for loss in losses]
        soft, half, factors, noisy = _medians(ways, repeats if size < 100 else max(repeats // 5, 3))
        row = " ".join(f"{value:14.2f}" for value in (soft, half, factors, noisy))
        ratios = f"{factors / soft:6.3f} {noisy / soft:6.3f}, {factors / half:6.3f} {noisy / half:6.3f}"
        print(f"{graphs:>9} x {size:<3} {row}  {ratios}", flush=True)


def soft_loss(views: list[Tensor], edges: list[Tensor], *, both_ends: bool = True) -> Tensor:
    """Return the mean cross-entropy of the relaxed matching to the identity, every step on the tape."""
    vertex = cosine_table(*views)
    edge = edge_directions(views[0], edges[0]) @ edge_directions(views[1], edges[1]).transpose(1, 2)
    graphs, size, _ = vertex.shape
    matching = torch.full_like(vertex, 1.0 / size)
    into = [torch.nn.functional.one_hot(e[..., 1], size).to(vertex) for e in edges]  # (G, S, N)
    for _ in range(OUTER):
        second = (edge * _between(matching, edges, end=1)).reshape(graphs, size, NEIGHBOURS, size, NEIGHBOURS)
        second = second.sum(dim=(2, 4))
        if both_ends:
            second = second + into[0].transpose(1, 2) @ (edge * _between(matching, edges, end=0)) @ into[1]
        logits = (vertex + second) / TEMPERATURE
        for _ in range(SWEEPS):
            logits = logits - logits.logsumexp(dim=2, keepdim=True)
            logits = logits - logits.logsumexp(dim=1, keepdim=True)
        matching = logits.exp()
    return -torch.diagonal(logits, dim1=1, dim2=2).mean()


def _between(matching: Tensor, edges: list[Tensor], *, end: int) -> Tensor:
    """Return (G, S, T): how far one end of each edge of s is matched to that of each edge of t."""
    end_s, end_t = edges[0][..., end], edges[1][..., end]
    rows = matching.gather(1, end_s[:, :, None].expand(-1, -1, matching.shape[2]))
    return rows.gather(2, end_t[:, None, :].expand(-1, rows.shape[1], -1))


def matching_loss(
    solver: GraphMatching, views: list[Tensor], edges: list[Tensor], *, noise: Noise | None = None
) -> Tensor:
    """Return the surrogate of the discrete matching; with noise on every edge its solver is given a table."""
    affinities = Affinities(
        vertex=cosine_table(*views),
        nodes_s=views[0],
        nodes_t=views[1],
        edges_s=edges[0],
        edges_t=edges[1],
    )
    perturbations = None
    if noise is not None:
        draws = [torch.Generator().manual_seed(g) for g in range(len(views[0]))]
        perturbations = draw_perturbations(affinities, noise, draws)
    return MatchingGradient()(affinities, solver, perturbations).loss.mean()


def _views(graphs: int, size: int) -> list[Tensor]:
    """Draw two views that a matcher gets wrong in places, so that there is a gradient."""
    draws = torch.Generator().manual_seed(0)
    s = torch.randn(graphs, size, WIDTH, generator=draws)
    return [s.requires_grad_(), (s + 3.0 * torch.randn(s.shape, generator=draws)).detach().requires_grad_()]


def _descend(loss: Callable[[list[Tensor], list[Tensor]], Tensor], views: list[Tensor], edges: list[Tensor]) -> None:
    for view in views:
        view.grad = None
    loss(views, edges).backward()


def _medians(ways: list[Callable[[], None]], repeats: int) -> list[float]:
    """Return milliseconds of CPU time of each, taken in turn so that the machine's moods hit all alike."""
    taken: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 2):
        for way, times in zip(ways, taken, strict=True):
            start = time.process_time()
            way()
            if repeat >= 2:
                times.append(1e3 * (time.process_time() - start))
    return [float(np.median(times)) for times in taken]


if __name__ == "__main__":
    main()
