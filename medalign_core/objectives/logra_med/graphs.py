"""The graphs of LoGra-Med: which sets of nodes are matched with which, their edges, and the messages over them."""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medalign_core.ops.cosine import at_least_float32
from medalign_core.ops.draws import generator
from medalign_core.ops.graphs import knn_edges
from medalign_core.types import DrawKey


class Pairing(NamedTuple):
    """Which sets are matched with which.

    Attributes:
        sets: names of all sets: the K given ones, then the targets made of them.
        pairs: ordered pairs (s, t) of indices into `sets`, each pair of graphs in both directions.
        labels: for each pair, what its statistics are called; the same for both directions.
    """

    sets: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    labels: tuple[str, ...]


class Views(NamedTuple):
    """The graphs over which messages pass, without repetition, and where the pairs find theirs.

    Attributes:
        nodes: for each of U views, the set whose nodes it has.
        edges: for each of U views, the set whose edges it has.
        first: for each pair, the view of its graph s.
        second: for each pair, the view of its graph t.
    """

    nodes: list[int]
    edges: list[int]
    first: list[int]
    second: list[int]


def pair_up(names: tuple[str, ...], target: Literal["barycenter", "leave_one_out", "pairwise"]) -> Pairing:
    """Return the pairs of K graphs: K with the barycenter or with the others' mean, K (K - 1) / 2 pairwise; twice."""
    count = len(names)
    if target == "pairwise":
        sets, matched = names, list(combinations(range(count), 2))
        labels = [f"{names[s]}_{names[t]}" for s, t in matched]
    elif target == "barycenter":
        sets, matched, labels = (*names, "barycenter"), [(s, count) for s in range(count)], list(names)
    else:
        sets = (*names, *(f"all_but_{name}" for name in names))
        matched, labels = [(s, count + s) for s in range(count)], list(names)
    both = [pair for s, t in matched for pair in ((s, t), (t, s))]
    return Pairing(sets, tuple(both), tuple(label for label in labels for _ in range(2)))


def with_targets(
    nodes: Float[Tensor, "K B F"], target: Literal["barycenter", "leave_one_out", "pairwise"]
) -> Float[Tensor, "S B F"]:
    """Return the K sets and after them the targets made of them, in the order of `pair_up`; gradients reach all K."""
    if target == "pairwise":
        return nodes
    total = nodes.sum(dim=0, keepdim=True)
    if target == "barycenter":
        return torch.cat([nodes, total / len(nodes)])
    return torch.cat([nodes, (total - nodes) / (len(nodes) - 1)])


def nearest_edges(
    nodes: Float[Tensor, "S B F"], neighbours: int, *, valid: Bool[Tensor, " B"], names: tuple[str, ...], key: DrawKey
) -> Int[Tensor, "S E 2"]:
    """Return the directed edges (i, j) from each node to its min(k, B - 1) nearest (Euclidean), without loops.

    Of equally near nodes an order decides that is drawn for each set by its name. A single node has no edges. Edges
    that touch an invalid node fill the list where there are not enough valid ones (see ops.graphs.knn_edges).
    """
    sets, size, _ = nodes.shape
    if size == 1:
        return torch.zeros(sets, 0, 2, dtype=torch.long, device=nodes.device)
    return knn_edges(
        nodes,
        min(neighbours, size - 1),
        valid=valid.expand(sets, size),
        order=draw_orders(key, names, size).to(nodes.device),
    )


def draw_orders(key: DrawKey, names: tuple[str, ...], size: int) -> Int[Tensor, "S B"]:
    """Return a permutation for each name, keyed by (seed, step, micro-batch, name) and by nothing else, on the CPU."""
    return torch.stack([torch.randperm(size, generator=generator(*key, name, "order")) for name in names])


def arrange_views(pairing: Pairing, edges: Literal["shared", "own"]) -> Views:
    """Return the views that pairs need: with shared edges, graph t of a pair has its own nodes and the edges of s."""
    wanted = [((s, s), (t, s if edges == "shared" else t)) for s, t in pairing.pairs]
    number = {view: n for n, view in enumerate(dict.fromkeys(view for pair in wanted for view in pair))}
    return Views(
        nodes=[nodes for nodes, _ in number],
        edges=[edges for _, edges in number],
        first=[number[s] for s, _ in wanted],
        second=[number[t] for _, t in wanted],
    )


class MaxGraphConvolutions(nn.Module):
    """Layers of relu(x_j W_root + (max over messages i -> j of x_i) W_rel + b); a node without messages hears 0.

    GraphConv of PyTorch Geometric with aggr="max" (Morris et al. 2019 with a maximum), from plain torch operations.
    """

    def __init__(
        self,
        size: int,
        *,
        width: int,
        layers: int,
        messages: Literal["to_neighbours", "from_neighbours"] = "to_neighbours",
    ) -> None:
        super().__init__()
        sizes = [size] + [width] * layers
        self.root = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in zip(sizes, sizes[1:], strict=False))
        self.relation = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        self._sender, self._receiver = (0, 1) if messages == "to_neighbours" else (1, 0)

    def forward(
        self, sets: Float[Tensor, "S B F"], views: list[int], edges: Int[Tensor, "U E 2"], kept: Bool[Tensor, "U E"]
    ) -> Float[Tensor, "U B W"]:
        """Return the nodes of U views after all layers, in float32 at least.

        Args:
            sets: the nodes, set by set.
            views: for each view, the set whose nodes it has.
            edges: of each view, (i, j): i is joined to its near j.
            kept: False for an edge that carries no message.
        """
        senders, receivers = edges[..., self._sender], edges[..., self._receiver]
        index = torch.tensor(views, device=sets.device)
        nodes = sets.index_select(0, index)
        for number, (root, relation) in enumerate(zip(self.root, self.relation, strict=True)):
            heard = max_messages(nodes, senders, receivers, kept)
            # half precision under an engine that casts the weights; maxima are taken in float32
            dtype = next(relation.parameters()).dtype
            # in the first layer several views have the same nodes, whatever their edges
            own = root(sets.to(dtype)).index_select(0, index) if number == 0 else root(nodes.to(dtype))
            nodes = at_least_float32(torch.relu(own + relation(heard.to(dtype))))
        return nodes


def max_messages(
    nodes: Float[Tensor, "U B F"],
    senders: Int[Tensor, "U E"],
    receivers: Int[Tensor, "U E"],
    kept: Bool[Tensor, "U E"],
) -> Float[Tensor, "U B F"]:
    """Return the maximum, feature by feature, over what each node is sent; 0 where it is sent nothing.

    Its gradient goes to the sender of the maximum, in equal parts where several tie.
    """
    graphs, size, width = nodes.shape
    first = torch.arange(graphs, device=nodes.device)[:, None]
    sent = nodes.flatten(0, 1).index_select(0, (senders + first * size).flatten())  # (U E, F)
    rows = graphs * (size + 1)  # a row more in each graph, for what is not kept
    to = (torch.where(kept, receivers, size) + first * (size + 1)).flatten()
    with torch.no_grad():
        empty = sent.new_zeros(rows, width)
        largest = empty.scatter_reduce(0, to[:, None].expand_as(sent), sent, "amax", include_self=False)
        winner = (sent == largest.index_select(0, to)).to(sent.dtype)
        ties = empty.index_add(0, to, winner).clamp(min=1)
        share = winner / ties.index_select(0, to)
    # the sum over winners is the maximum, and its derivative passes whole rows: that of scatter_reduce is far slower
    heard = sent.new_zeros(rows, width).index_add(0, to, sent * share)
    return heard.reshape(graphs, size + 1, width)[:, :size]
