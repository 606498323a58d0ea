"""Settings of LVM-Med: three published readings as presets, and every knob a key."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from medalign_core.solvers.graph_matching import GraphMatching

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.lvm_med.module import LVMMedModule


class PresetValues(NamedTuple):
    """What the published readings disagree on; the fields are described at LVMMed."""

    local_matches: int
    local_reduction: Literal["mean", "sum"]
    edge_weight: float
    noise: Literal["gumbel", "sum_of_gamma", "margin"]
    noise_scale: float


PRESETS = {
    "pseudo_code": PresetValues(20, "mean", 1.0, "gumbel", 1.0),
    "paper_equations": PresetValues(0, "sum", 1.0, "gumbel", 1.0),
    "bb_gm": PresetValues(20, "mean", 0.5, "margin", 1.0),
}


@dataclass(frozen=True, kw_only=True)
class LVMMed:
    """LVM-Med (Nguyen et al., NeurIPS 2023): match two views of a batch of images as graphs; the truth is the identity.

    A key left at None takes the preset's value (see PRESETS).

    Attributes:
        preset: "pseudo_code" is the appendix's algorithm, its local term symmetrised; "paper_equations" are eq. 2-3 as
            printed; "bb_gm" is the paper's ablation without noise, a margin in its place, with BB-GM's edge weight.
        graph_size: N, images per graph; the micro-batch is cut into graphs of this many, in order.
        neighbours: k of the k-NN graphs, < graph_size.
        projection_size: F, the width of the projected embedding, whose neighbours make the graph.
        projector_depth: linear maps in the projector; 1 is the paper's "2048 x 128".
        projector_norm: batch norm in the projector, "none" or "batch"; the paper is silent.
        graph_layer: the message passing, "gcn" as in the paper, or "graph_conv" as in sister code, which weighs a node
            apart from its neighbours. From random initialisation the GCN learns slowly if at all: the paper starts from
            pretrained encoders, whose graphs agree. Take "graph_conv", or message_passing off, from scratch.
        graph_layers: how many layers of it.
        graph_width: their width.
        graph_dropout: probability of a zero between them, in [0, 1); the paper is silent, sister code has 0.5.
        alpha: share of the global in the vertex affinity, the local has 1 - alpha; in [0, 1].
        local_matches: gamma, cells of a map that count in the local affinity: the best matched; 0 counts all.
        small_matches: gamma between a large and a small view, where the recipe draws small ones. Graphs are of the two
            large views; the local affinity is then the mean over all pairs of a large view with any other.
        local_reduction: "mean" over both terms and both directions, in [-1, 1]; "sum" of all four, in [-4, 4].
        edge_weight: w, weight of the second-order term in the matching problem.
        strength: lambda of the gradient estimator. The published 80 is saturated: every value above about 10 gives
            the same gradient but for its length, 1 / lambda.
        estimator: "homogeneous", linear in the gradient that comes in, or "compat", as published: loss scales and means
            over graphs change its target instead of its length (see solvers.implicit).
        samples: draws of the noise, each matched, whose gradients are averaged; the paper has 1.
        noise: what perturbs the affinities in training: "gumbel" on every vertex and edge affinity, "sum_of_gamma"
            likewise (I-MLE's noise for structures), or "margin", a constant off the affinity of the true pairs.
        noise_scale: the scale of the Gumbel draws, or the margin; 0 for none. The paper's Gumbel(0, 1) is large against
            cosines; the same group's later code has 0.05.
        second_order: False matches by vertex affinities alone, a linear assignment.
        message_passing: False takes the projections themselves as nodes.
        local: False takes the global affinity alone.
        solver: how hard to search. Its edge_weight and second_order are set from the keys above.
    """

    preset: Literal["pseudo_code", "paper_equations", "bb_gm"] = "pseudo_code"
    graph_size: int = 16
    neighbours: int = 5
    projection_size: int = 128
    projector_depth: int = 1
    projector_norm: Literal["none", "batch"] = "none"
    graph_layer: Literal["gcn", "graph_conv"] = "gcn"
    graph_layers: int = 2
    graph_width: int = 128
    graph_dropout: float = 0.0
    alpha: float = 0.8
    local_matches: int | None = None
    small_matches: int = 4
    local_reduction: Literal["mean", "sum"] | None = None
    edge_weight: float | None = None
    strength: float = 80.0
    estimator: Literal["homogeneous", "compat"] = "homogeneous"
    samples: int = 1
    noise: Literal["gumbel", "sum_of_gamma", "margin"] | None = None
    noise_scale: float | None = None
    second_order: bool = True
    message_passing: bool = True
    local: bool = True
    solver: GraphMatching = field(default_factory=GraphMatching)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        if self.graph_size < 2 or not 1 <= self.neighbours < self.graph_size:
            raise ValueError(
                "graph_size must be >= 2 and neighbours in [1, graph_size - 1], "
                f"got {self.graph_size} and {self.neighbours}."
            )
        for name in ("projection_size", "projector_depth", "graph_layers", "graph_width", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if not 0 <= self.graph_dropout < 1:
            raise ValueError(f"graph_dropout must be in [0, 1), got {self.graph_dropout}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}.")
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength (lambda) must be > 0 and finite, got {self.strength}.")
        self._check_choices()

    def _check_choices(self) -> None:
        values = self.values()
        if self.small_matches < 0:
            raise ValueError(f"small_matches must be >= 0, got {self.small_matches}.")
        if values.local_matches < 0 or not 0 <= values.noise_scale < float("inf"):
            raise ValueError(
                f"local_matches and noise_scale must be >= 0, got {values.local_matches} and {values.noise_scale}."
            )
        if self.projector_norm not in ("none", "batch"):
            raise ValueError(f"projector_norm must be 'none' or 'batch', got {self.projector_norm!r}.")
        if self.graph_layer not in ("gcn", "graph_conv"):
            raise ValueError(f"graph_layer must be 'gcn' or 'graph_conv', got {self.graph_layer!r}.")
        if values.local_reduction not in ("mean", "sum") or values.noise not in ("gumbel", "sum_of_gamma", "margin"):
            raise ValueError(
                "local_reduction must be 'mean' or 'sum' and noise 'gumbel', 'sum_of_gamma' or 'margin', "
                f"got {values.local_reduction!r} and {values.noise!r}."
            )
        if self.estimator not in ("homogeneous", "compat") or (self.estimator == "compat" and self.samples > 1):
            raise ValueError(
                "estimator must be 'homogeneous', or 'compat' with samples = 1, "
                f"got {self.estimator!r} with samples = {self.samples}."
            )
        if self.solver.edge_weight != GraphMatching.edge_weight or not self.solver.second_order:
            raise ValueError("set edge_weight and second_order of the objective, not of its solver.")
        self.matcher()

    def values(self) -> PresetValues:
        """Return the keys the presets set, each as given or else the preset's."""
        preset = PRESETS[self.preset]
        given = {name: getattr(self, name) for name in preset._fields}
        return preset._replace(**{name: value for name, value in given.items() if value is not None})

    def matcher(self) -> GraphMatching:
        """Return the solver with the objective's edge weight and order."""
        return replace(self.solver, edge_weight=self.values().edge_weight, second_order=self.second_order)

    def validate(self, micro_batch: int) -> None:
        """Check that a micro-batch holds whole graphs.

        Raises:
            ValueError: it does not.
        """
        if micro_batch < 1 or micro_batch % self.graph_size:
            raise ValueError(f"micro_batch must be a multiple of graph_size = {self.graph_size}, got {micro_batch}.")

    def build(self, model: ImageEncoder) -> LVMMedModule:
        """Return the module that owns encoder, heads and solver; new weights come from torch's global generator."""
        from medalign_core.objectives.lvm_med.module import LVMMedModule

        return LVMMedModule(self, model)
