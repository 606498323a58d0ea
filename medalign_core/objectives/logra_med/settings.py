"""Settings of the objectives of a multimodal model: the loss on words alone, and LoGra-Med's alignment beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from medalign_core.solvers.graph_matching import GraphMatching

if TYPE_CHECKING:
    from torch import nn

    from medalign_core.objectives.logra_med.module import ChatModel, ChatModule

NodeSet = Literal["image", "answer", "extended"]
NODE_SETS: tuple[NodeSet, ...] = ("image", "answer", "extended")
INERT_ACCURACY = 0.95  # an alignment that starts above this matching accuracy has nothing left to teach


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """The autoregressive loss alone, a mean over target tokens (LLaVA-Med).

    On a corpus that holds the extended answers as conversations of their own it is the control "extended text as
    further training text".
    """

    def validate(self, micro_batch: int) -> None:
        """Any size will do."""

    def build(self, model: ChatModel) -> ChatModule:
        """Return the module that owns the model; there are no further weights."""
        from medalign_core.objectives.logra_med.module import ChatModule

        return ChatModule(model)


@dataclass(frozen=True, kw_only=True)
class AlignedObjective(ABC):
    """What all objectives share that add alpha times an alignment of node sets to the autoregressive loss.

    A node set has one node per sample: of its image, of its answer, or of its extended answer. Row i of each set is the
    same sample; that is what every alignment teaches.

    Attributes:
        alpha: weight of the alignment, >= 0.
        graphs: which node sets, two or more.
        duplicates: two samples of a micro-batch with the same image or the same answer make the truth ambiguous. "mask"
            leaves the later one out of the alignment (not out of the autoregressive loss); "count" only logs them.
    """

    alpha: float = 1.0
    graphs: tuple[NodeSet, ...] = NODE_SETS
    duplicates: Literal["mask", "count"] = "mask"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be finite and >= 0, got {self.alpha}.")
        if len(self.graphs) < 2 or len(set(self.graphs)) < len(self.graphs) or not set(self.graphs) <= set(NODE_SETS):
            raise ValueError(f"graphs must be two or more of {', '.join(NODE_SETS)}, none twice, got {self.graphs}.")
        if self.duplicates not in ("mask", "count"):
            raise ValueError(f"duplicates must be 'mask' or 'count', got {self.duplicates!r}.")

    def validate(self, micro_batch: int) -> None:
        """Check that there is something to tell apart.

        Raises:
            ValueError: there is not.
        """
        if micro_batch < 2:
            raise ValueError(f"micro_batch must be >= 2: samples are aligned among each other, got {micro_batch}.")

    def build(self, model: ChatModel) -> ChatModule:
        """Return the module that owns model and alignment; new weights come from torch's global generator."""
        from medalign_core.objectives.logra_med.module import ChatModule

        return ChatModule(model, self, self.new_alignment(model))

    @abstractmethod
    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return what is called as alignment(nodes, valid, batch) -> (loss, stats)."""


@dataclass(frozen=True, kw_only=True)
class LoGraMed(AlignedObjective):
    """LoGra-Med, later ExGra-Med (Nguyen et al., NeurIPS 2025): the node sets as graphs; the truth is the identity.

    Each graph joins every sample to its nearest; messages pass over it; two graphs are matched by the cosines of nodes
    and of edges, partially, under noise. Defaults are the published code's but for the estimator.

    Attributes:
        neighbours: k; where a micro-batch has no more than k nodes, all the others.
        edges: "shared": both graphs of a pair have the edges of the first, as in the published code; then the structure
            itself gives the identity away. "own": each its own.
        message_passing: "graph_conv", x_j W_root + max over incoming x_i W_rel + b, or "none".
        messages: "to_neighbours": a node sends to its k nearest, so that a node listens to those that count it among
            theirs (the published code, read with PyG's convention), and to nobody if there are none.
            "from_neighbours": it listens to its k nearest.
        graph_layers: how many layers of message passing, with a ReLU after each.
        graph_width: their width; None: the nodes'.
        graph_dropout: probability of a zero on their output in training, in [0, 1).
        target: what each graph is matched with, in both directions: "barycenter", the mean of all graphs' nodes, of
            which a graph itself is a part; "leave_one_out", the mean of the others; "pairwise", every other graph.
        centring: subtract each set's mean over samples first: a common part dominates the cosines of raw features.
        threshold: affinities below this are not worth a match: it is taken off all of them, and a node may stay
            unmatched. None: full matchings.
        edge_weight: w, weight of the second-order term.
        second_order: False matches by vertex affinities alone.
        noise_scale: beta of the Gumbel(0, beta) draws on all affinities in training; 0 for none.
        share_vertex_noise: one draw on the vertex affinities for all pairs of graphs, as in the published code.
        samples: draws of the noise, each matched, whose gradients are averaged.
        strength: lambda of the gradient estimator, for a Hamming loss that is a mean over nodes: the target is moved by
            lambda / B.
        estimator: "homogeneous", linear in what comes in. "compat", as published: alpha, the number of pairs, loss
            scales and accumulation move its target instead of its length, so that its gradient is longer, up to the
            number of pairs (6 for 3 graphs with a barycenter) times, and all but lost under a loss scaler.
        solver: how hard to search. Its edge_weight, second_order and partial are set from the keys above.
    """

    neighbours: int = 5
    edges: Literal["shared", "own"] = "shared"
    message_passing: Literal["graph_conv", "none"] = "graph_conv"
    messages: Literal["to_neighbours", "from_neighbours"] = "to_neighbours"
    graph_layers: int = 2
    graph_width: int | None = None
    graph_dropout: float = 0.1
    target: Literal["barycenter", "leave_one_out", "pairwise"] = "barycenter"
    centring: bool = False
    threshold: float | None = 0.5
    edge_weight: float = 0.5
    second_order: bool = True
    noise_scale: float = 0.05
    share_vertex_noise: bool = False
    samples: int = 1
    strength: float = 80.0
    estimator: Literal["homogeneous", "compat"] = "homogeneous"
    solver: GraphMatching = field(default_factory=GraphMatching)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("neighbours", "graph_layers", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.graph_width is not None and self.graph_width < 1:
            raise ValueError(f"graph_width must be >= 1, or None, got {self.graph_width}.")
        if not 0 <= self.graph_dropout < 1:
            raise ValueError(f"graph_dropout must be in [0, 1), got {self.graph_dropout}.")
        if not 0 <= self.noise_scale < float("inf"):
            raise ValueError(f"noise_scale must be finite and >= 0, got {self.noise_scale}.")
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength (lambda) must be > 0 and finite, got {self.strength}.")
        if self.threshold is not None and not abs(self.threshold) < float("inf"):
            raise ValueError(f"threshold must be finite, or None, got {self.threshold}.")
        self._check_choices()

    def _check_choices(self) -> None:
        for name, known in (
            ("edges", ("shared", "own")),
            ("message_passing", ("graph_conv", "none")),
            ("messages", ("to_neighbours", "from_neighbours")),
            ("target", ("barycenter", "leave_one_out", "pairwise")),
            ("estimator", ("homogeneous", "compat")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {getattr(self, name)!r}.")
        if self.estimator == "compat" and self.samples > 1:
            raise ValueError(f"the published estimator ('compat') takes samples = 1, got {self.samples}.")
        defaults = GraphMatching()
        if any(getattr(self.solver, n) != getattr(defaults, n) for n in ("edge_weight", "second_order", "partial")):
            raise ValueError("set edge_weight, second_order and threshold of the objective, not of its solver.")
        self.matcher()

    def matcher(self) -> GraphMatching:
        """Return the solver with the objective's edge weight, order and mode."""
        return replace(
            self.solver,
            edge_weight=self.edge_weight,
            second_order=self.second_order,
            partial=self.threshold is not None,
        )

    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return the graph network around the alignment; its weights come from torch's global generator."""
        from medalign_core.objectives.logra_med.module import GraphAlignment

        return GraphAlignment(self, model.width)
