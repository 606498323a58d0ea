"""The alignment of LoGra-Med over node sets: graphs, affinities, noise, matchings, and the loss with its statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.objectives.logra_med.graphs import (
    MaxGraphConvolutions,
    Pairing,
    arrange_views,
    draw_orders,
    nearest_edges,
    pair_up,
    with_targets,
)
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.ops.cosine import at_least_float32, cosine_table
from medalign_core.ops.draws import generator
from medalign_core.ops.graphs import edge_mask
from medalign_core.solvers.affinities import Affinities, Perturbations, draw_perturbations
from medalign_core.solvers.graph_matching import Status
from medalign_core.solvers.implicit import MatchingGradient, MatchingLoss
from medalign_core.solvers.matching_target import hamming
from medalign_core.solvers.noise import Noise
from medalign_core.types import DrawKey

Stats = dict[str, Float[Tensor, ""]]


def align(
    nodes: Mapping[str, Float[Tensor, "B F"]],
    valid: Bool[Tensor, " B"],
    key: DrawKey,
    *,
    settings: LoGraMed,
    network: MaxGraphConvolutions | None,
    training: bool,
) -> tuple[Float[Tensor, ""], Stats]:
    """Return (loss, stats) of the K graphs of one micro-batch, K >= 2.

    The Hamming loss of a pair of graphs is (1/n) sum of V (1 - V*) + (1 - V) V*, n valid nodes, V* the identity: in
    [0, 2], 2/n for a wrong pair, 1/n for an unmatched node. The loss is its mean over all ordered pairs. With the
    "homogeneous" estimator the value returned is the surrogate (F(V) - F(V')) / lambda, V' the target moved by
    lambda / n, whose gradient by the affinities is (V - V') / lambda: use its gradient, and read `hamming` for the loss
    that is meant. With fewer than two valid nodes the loss is 0, still connected to nodes and network.

    Stats, detached scalars: for each graph (with target "pairwise": each pair) hamming_NAME and matching_accuracy_NAME,
    means over both directions; hamming, matching_accuracy and unmatched_rate over all; solver_failures (problems that
    were not finite), target_solves (share of second solves that could not be skipped), solver_seconds (of solves and
    estimator). All of the problems solved, so of the noisy ones in training.

    Args:
        nodes: name -> nodes; row i of each set is the same sample.
        valid: False for a row that is not there or is left out.
        key: what noise, dropout and orders are keyed by, together with the names of the graphs: a graph's draws do not
            depend on which others there are.
        settings: see LoGraMed.
        network: the message passing, None for none.
        training: with noise and dropout.
    """
    pairing = pair_up(tuple(nodes), settings.target)
    affinities = compare(nodes, valid, key, settings=settings, network=network, training=training)
    count = int(valid.sum())
    homogeneous = settings.estimator == "homogeneous"
    gradient = MatchingGradient(
        strength=settings.strength / max(count, 1) if homogeneous else settings.strength, estimator=settings.estimator
    )
    noise = _draw_noise(affinities, key, pairing, settings) if training and settings.noise_scale > 0 else None
    start = time.perf_counter()
    matched = gradient(affinities, settings.matcher(), noise)
    seconds = time.perf_counter() - start
    loss = matched.loss.sum() * ((count >= 2) / (len(pairing.pairs) * max(count, 1)))
    found = _stats(matched, valid.cpu().numpy(), pairing.labels) | {"solver_seconds": seconds}
    return loss, {name: torch.tensor(float(value), device=loss.device) for name, value in found.items()}


def compare(
    nodes: Mapping[str, Float[Tensor, "B F"]],
    valid: Bool[Tensor, " B"],
    key: DrawKey,
    *,
    settings: LoGraMed,
    network: MaxGraphConvolutions | None,
    training: bool,
) -> Affinities:
    """Return the affinities of all ordered pairs, without noise, less the threshold; arguments as in `align`."""
    pairing = pair_up(tuple(nodes), settings.target)
    present = valid[:, None]
    stacked = torch.stack([torch.where(present, at_least_float32(x), 0.0) for x in nodes.values()])
    if settings.centring:
        mean = stacked.sum(dim=1, keepdim=True) / present.sum().clamp(min=1)
        stacked = torch.where(present, stacked - mean, 0.0)
    sets = with_targets(stacked, settings.target)
    edges = nearest_edges(sets, settings.neighbours, valid=valid, names=pairing.sets, key=key)
    views = arrange_views(pairing, settings.edges)
    if network is None:
        hidden = sets[views.nodes]
    else:
        of_view = edges[views.edges]
        kept = edge_mask(of_view, valid.expand(len(of_view), -1))
        hidden = network(sets, views.nodes, of_view, kept)
    sides = [hidden[views.first], hidden[views.second]]
    if training and network is not None and settings.graph_dropout > 0:
        sides = [
            _drop(side, key, pairing, name, settings.graph_dropout) for side, name in zip(sides, "st", strict=True)
        ]
    pairs, size = len(pairing.pairs), len(valid)
    threshold = settings.threshold or 0.0
    return Affinities(
        vertex=torch.where(present & valid[None, :], cosine_table(*sides) - threshold, 0.0),
        nodes_s=sides[0],
        nodes_t=sides[1],
        edges_s=edges[[views.edges[n] for n in views.first]],
        edges_t=edges[[views.edges[n] for n in views.second]],
        edge_offset=-threshold,
        valid=valid.expand(pairs, size),
        order=draw_orders(key, _names(pairing), size).to(valid.device),
    )


def _names(pairing: Pairing) -> tuple[str, ...]:
    """Return a name for each ordered pair, such as "image>barycenter"."""
    return tuple(f"{pairing.sets[s]}>{pairing.sets[t]}" for s, t in pairing.pairs)


def _drop(nodes: Tensor, key: DrawKey, pairing: Pairing, side: str, rate: float) -> Tensor:
    draws = [
        torch.rand(nodes.shape[1:], generator=generator(*key, name, side, "dropout")) >= rate
        for name in _names(pairing)
    ]
    return nodes * torch.stack(draws).to(nodes) / (1.0 - rate)


def _draw_noise(affinities: Affinities, key: DrawKey, pairing: Pairing, settings: LoGraMed) -> Perturbations:
    noise = Noise(distribution="gumbel", scale=settings.noise_scale)
    draws = [generator(*key, name, "noise") for name in _names(pairing)]
    edges = settings.second_order and affinities.edges_s.shape[1] > 0
    drawn = draw_perturbations(affinities, noise, draws, samples=settings.samples, edges=edges)
    if not settings.share_vertex_noise:
        return drawn
    shape = (settings.samples, 1, *drawn.vertex.shape[2:])
    shared = noise.draw(shape, generator(*key, "vertex noise"))
    return replace(drawn, vertex=np.broadcast_to(shared, drawn.vertex.shape))


def _stats(matched: MatchingLoss, valid: np.ndarray, labels: tuple[str, ...]) -> dict[str, float]:
    matching, pairs, count = matched.solution.matching, len(labels), max(int(valid.sum()), 1)
    everyone = np.broadcast_to(valid, matching.shape)

    def per_pair(numbers: np.ndarray) -> np.ndarray:
        """Return (pairs,), the mean over samples of the noise, a share of the valid nodes."""
        mean: np.ndarray = numbers.reshape(-1, pairs).mean(axis=0) / count
        return mean

    wrong = per_pair(hamming(matching, everyone))
    right = per_pair(((matching == np.arange(valid.size)) & everyone).sum(axis=1))
    stats = {
        "hamming": wrong.mean(),
        "matching_accuracy": right.mean(),
        "unmatched_rate": per_pair(((matching < 0) & everyone).sum(axis=1)).mean(),
        "solver_failures": (matched.solution.status == Status.FAILED).sum(),
        "target_solves": matched.target_solved.mean(),
    }
    for label in dict.fromkeys(labels):
        own = np.array([other == label for other in labels])
        stats[f"hamming_{label}"], stats[f"matching_accuracy_{label}"] = wrong[own].mean(), right[own].mean()
    return stats
