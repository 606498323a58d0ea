"""LoGra-Med's alignment of one micro-batch, part by part: graphs and messages, solves and estimator, backward.

python bench/logra_alignment.py [--rows N] [--widths D ...] [--repeats N]

Three node sets of random nodes around a latent each, the published defaults (k 5, barycenter, Gumbel 0.05, six problems
and their targets), float32, one thread. "network" is forward and backward of the two layers of graph convolution alone;
"machinery" is everything else. Medians of wall time in milliseconds; run it on a quiet core: taskset -c 1.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from medalign_core.objectives.logra_med.alignment import align
from medalign_core.objectives.logra_med.graphs import (
    MaxGraphConvolutions,
    arrange_views,
    nearest_edges,
    pair_up,
    with_targets,
)
from medalign_core.objectives.logra_med.settings import NODE_SETS, LoGraMed
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.types import DrawKey


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--widths", type=int, nargs="+", default=[576, 4096])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows, repeats = arguments.rows, arguments.repeats
    torch.set_num_threads(1)
    columns = ("solve ms", "without network ms", "network ms", "all ms")
    print(f"{'D':>6} {'solver':>9} {'target':>11} " + " ".join(f"{name:>19}" for name in columns))
    for width in arguments.widths:
        torch.manual_seed(0)
        network = MaxGraphConvolutions(width, width=width, layers=2)
        messages = _median(partial(_pass_messages, network, rows, width), repeats)
        for backend, target in itertools.product(("compiled", "numpy"), ("barycenter", "pairwise")):
            settings = LoGraMed(target=target, solver=GraphMatching(backend=backend))
            plain = replace(settings, message_passing="none", graph_dropout=0.0)
            whole, solve = _median(partial(_step, settings, network, rows, width), repeats)
            bare, _ = _median(partial(_step, plain, None, rows, width), repeats)
            values = " ".join(f"{value:19.1f}" for value in (solve, bare, messages[0], whole))
            print(f"{width:>6} {backend:>9} {target:>11} {values}", flush=True)


def _step(
    settings: LoGraMed, network: MaxGraphConvolutions | None, rows: int, width: int, number: int
) -> tuple[float, float]:
    """Return the seconds of a whole alignment and of its solves and estimator."""
    nodes, valid = _node_sets(rows, width, number), torch.ones(rows, dtype=torch.bool)
    start = time.perf_counter()
    loss, stats = align(nodes, valid, DrawKey(0, number, 0), settings=settings, network=network, training=True)
    loss.backward()
    return time.perf_counter() - start, stats["solver_seconds"].item()


def _pass_messages(network: MaxGraphConvolutions, rows: int, width: int, number: int) -> tuple[float, ...]:
    nodes = _node_sets(rows, width, number)
    pairing, valid = pair_up(tuple(nodes), "barycenter"), torch.ones(rows, dtype=torch.bool)
    sets = with_targets(torch.stack(list(nodes.values())), "barycenter")
    edges = nearest_edges(sets, 5, valid=valid, names=pairing.sets, key=DrawKey(0, number, 0))
    views = arrange_views(pairing, "shared")
    edges = edges[views.edges]
    start = time.perf_counter()
    network(sets, views.nodes, edges, torch.ones(edges.shape[:2], dtype=torch.bool)).square().sum().backward()
    return (time.perf_counter() - start,)


def _median(step: Callable[[int], tuple[float, ...]], repeats: int) -> list[float]:
    """Return the medians of what the steps return, in milliseconds, the first two left out."""
    taken = [step(number) for number in range(repeats + 2)][2:]
    return [1e3 * statistics.median(part) for part in zip(*taken, strict=True)]


def _node_sets(rows: int, width: int, seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, width, generator=draws)
    return {name: (latent + 2.0 * torch.randn(latent.shape, generator=draws)).requires_grad_() for name in NODE_SETS}


if __name__ == "__main__":
    main()
