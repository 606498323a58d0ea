"""The LVM-Med module: encoder, projector, graph convolutions and solver, from an image batch to (loss, stats)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medalign_core.metrics.collapse import embedding_std
from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.projector import GraphConvolutions, new_projector
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.lvm_med.affinity import best_location_matches, local_affinity
from medalign_core.objectives.lvm_med.loss import Perturbation, draw_orders, matching_loss, matching_problem
from medalign_core.objectives.lvm_med.settings import LVMMed
from medalign_core.ops.cosine import at_least_float32, cosine_table
from medalign_core.ops.draws import generator
from medalign_core.ops.graphs import adjacency, edge_mask, knn_edges
from medalign_core.ops.location import location_grid
from medalign_core.solvers.affinities import Affinities
from medalign_core.solvers.implicit import MatchingGradient
from medalign_core.types import DrawKey, ImageBatch


class ViewFeatures(NamedTuple):
    """Both views of G graphs, view first.

    Attributes:
        nodes: (2, G, N, F), the projected embeddings.
        cells: (2, G, N, P, D), the feature maps' cells, row by row.
        grid: (2, G, N, P, 2), the cells' centres in source coordinates.
        valid: (G, N), False for a hole.
        small_cells: (Z, G, N, Q, D) those of the small views, Z = 0 without.
        small_grid: (Z, G, N, Q, 2) their centres.
    """

    nodes: Float[Tensor, "2 G N F"]
    cells: Float[Tensor, "2 G N P D"]
    grid: Float[Tensor, "2 G N P 2"]
    valid: Bool[Tensor, "G N"]
    small_cells: Float[Tensor, "Z G N Q D"]
    small_grid: Float[Tensor, "Z G N Q 2"]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A solved micro-batch, for looking at.

    Attributes:
        matching: (G, N), the node of view t for each node of view s; node n of graph g is row g * N + n of the batch.
        vertex_affinity: (G, N, N), c^v.
        edge_affinity: (G, E, E), c^e.
        edges_s: (G, E, 2), the k-NN edges of view s.
        edges_t: (G, E, 2), of view t.
        cells_s: (G, N, M), cells of view s of each image whose place is best matched in its view t, best first.
        cells_t: (G, N, M), the cells of view t they match.
        map_size: (R, S); cell p is row p // S, column p % S of the view as the encoder saw it.
    """

    matching: Int[np.ndarray, "G N"]
    vertex_affinity: Float[Tensor, "G N N"]
    edge_affinity: Float[Tensor, "G E E"]
    edges_s: Int[Tensor, "G E 2"]
    edges_t: Int[Tensor, "G E 2"]
    cells_s: Int[Tensor, "G N M"]
    cells_t: Int[Tensor, "G N M"]
    map_size: tuple[int, int]


class LVMMedModule(nn.Module):
    """The objective around an encoder; see LVMMed for its settings."""

    def __init__(self, settings: LVMMed, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = new_projector(
            encoder.feature_size,
            settings.projection_size,
            depth=settings.projector_depth,
            norm=settings.projector_norm,
        )
        self.convolutions: GraphConvolutions | None = None
        if settings.message_passing:
            self.convolutions = GraphConvolutions(
                settings.projection_size,
                width=settings.graph_width,
                layers=settings.graph_layers,
                kind=settings.graph_layer,
            )
        self._solver = settings.matcher()
        self._gradient = MatchingGradient(strength=settings.strength, estimator=settings.estimator)

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch with two views, and small ones in the local affinity if it has any.

        The loss is the surrogate of solvers.implicit, the mean over graphs with at least two valid images: use its
        gradient, and read `hamming` for the loss that is meant. In evaluation mode there is no noise and no dropout.
        Stats, detached scalars: hamming (0 .. 2N), matching_accuracy (of the problem solved, so of the noisy one in
        training), retrieval_accuracy (nearest image by clean vertex affinity), embedding_std (0 is collapse),
        edge_overlap (share of edges that both graphs have), solver_failures (problems that were not finite),
        solver_iterations, and target_solves (share of problems whose second solve could not be skipped).

        Raises:
            ValueError: the batch does not hold whole graphs, or not two views; or small ones that nothing looks at.
        """
        affinities, features, _ = self._affinities(batch)
        values = self.settings.values()
        perturbation = None
        if self.training:
            perturbation = Perturbation(noise=values.noise, scale=values.noise_scale, samples=self.settings.samples)
        loss, stats, _ = matching_loss(
            affinities, batch.key, solver=self._solver, gradient=self._gradient, perturbation=perturbation
        )
        stats["embedding_std"] = embedding_std(features.nodes[0].flatten(0, 1), features.valid.flatten())
        stats["retrieval_accuracy"] = _retrieval_accuracy(affinities, features.valid)
        stats["edge_overlap"] = _edge_overlap(affinities, features.valid)
        return loss, stats

    @torch.no_grad()
    def match(self, batch: ImageBatch) -> Match:
        """Return the matching of a micro-batch, without noise, and what it rests on.

        Raises:
            ValueError: the module is in training mode (batch norms would take this batch into account).
        """
        if self.training:
            raise ValueError("call eval() on the module before match().")
        affinities, features, map_size = self._affinities(batch)
        solution = self._solver(matching_problem(affinities, batch.key, None))
        cells_s, cells_t = best_location_matches(*features.grid, matches=self.settings.values().local_matches)
        return Match(
            matching=solution.matching,
            vertex_affinity=affinities.vertex,
            edge_affinity=torch.where(
                edge_mask(affinities.edges_s, features.valid)[:, :, None]
                & edge_mask(affinities.edges_t, features.valid)[:, None, :],
                affinities.edge_table(),
                0.0,
            ),
            edges_s=affinities.edges_s,
            edges_t=affinities.edges_t,
            cells_s=cells_s,
            cells_t=cells_t,
            map_size=map_size,
        )

    def _affinities(self, batch: ImageBatch) -> tuple[Affinities, ViewFeatures, tuple[int, int]]:
        features, map_size = self._features(batch)
        with torch.autocast(device_type=batch.images.device.type, enabled=False):
            return self._compare(features, batch.key), features, map_size

    def _features(self, batch: ImageBatch) -> tuple[ViewFeatures, tuple[int, int]]:
        """Encode and project both views in one forward and cut the batch into graphs."""
        rows, views = batch.images.shape[:2]
        self.settings.validate(rows)
        if views != 2:
            raise ValueError(f"LVM-Med matches 2 views, got {views}.")
        encoded = stand_ins(batch.valid)
        small = self._small(batch, encoded)  # before the large views, whose statistics batch norms end with
        images = batch.images[encoded].transpose(0, 1).flatten(0, 1)  # (2 B, 3, H, W), view by view
        maps, pooled = self.encoder(images)
        weight = next(self.projector.parameters())
        nodes = self.projector(pooled.to(weight.dtype))
        shape = (2, rows // self.settings.graph_size, self.settings.graph_size)
        rows_of_map, columns_of_map = maps.shape[2:]
        cells, grid = _cells(maps, batch.boxes[encoded], batch.flipped[encoded], graphs=shape[1])
        features = ViewFeatures(
            nodes=at_least_float32(nodes).unflatten(0, shape),
            cells=cells,
            grid=grid,
            valid=batch.valid.unflatten(0, shape[1:]),
            small_cells=cells[:0] if small is None else small[0],
            small_grid=grid[:0] if small is None else small[1],
        )
        return features, (rows_of_map, columns_of_map)

    def _small(self, batch: ImageBatch, encoded: Int[Tensor, " B"]) -> tuple[Tensor, Tensor] | None:
        """Return the cells of the small views and their centres, None without."""
        if batch.small_images is None:
            return None
        if not self.settings.local:
            raise ValueError("small views are for the local affinity, which is off: draw none, or set local: true.")
        assert batch.small_boxes is not None
        assert batch.small_flipped is not None
        maps = self.encoder(batch.small_images[encoded].transpose(0, 1).flatten(0, 1)).map
        graphs = len(batch.valid) // self.settings.graph_size
        return _cells(maps, batch.small_boxes[encoded], batch.small_flipped[encoded], graphs=graphs)

    def _compare(self, features: ViewFeatures, key: DrawKey) -> Affinities:
        """Return the affinities between the graphs of the two views, in float32 at least."""
        settings, valid = self.settings, features.valid
        order = draw_orders(key, *valid.shape).to(valid.device)
        edges = [
            knn_edges(features.nodes[0], settings.neighbours, valid=valid),
            knn_edges(features.nodes[1], settings.neighbours, valid=valid, order=order),
        ]
        masks = [edge_mask(e, valid) for e in edges]
        nodes_s, nodes_t = self._pass_messages(features.nodes, edges, masks, key)
        vertex = cosine_table(nodes_s, nodes_t)
        if settings.local:
            vertex = settings.alpha * vertex + (1 - settings.alpha) * self._local(features)
        return Affinities(
            vertex=torch.where(valid[:, :, None] & valid[:, None, :], vertex, 0.0),
            nodes_s=nodes_s,
            nodes_t=nodes_t,
            edges_s=edges[0],
            edges_t=edges[1],
            valid=valid,
            order=order,
        )

    def _local(self, features: ViewFeatures) -> Float[Tensor, "G N N"]:
        """Return the local affinity of s with t, averaged with s and each small view, and each small view and t."""
        values = self.settings.values()
        (s, t), (at_s, at_t) = features.cells, features.grid
        found = [local_affinity(s, t, at_s, at_t, matches=values.local_matches, reduction=values.local_reduction)]
        for small, at in zip(features.small_cells, features.small_grid, strict=True):
            for pair in ((s, small, at_s, at), (small, t, at, at_t)):
                matches = self.settings.small_matches
                found.append(local_affinity(*pair, matches=matches, reduction=values.local_reduction))
        return torch.stack(found).mean(dim=0)

    def _pass_messages(
        self, nodes: Tensor, edges: list[Tensor], masks: list[Tensor], key: DrawKey
    ) -> tuple[Tensor, Tensor]:
        if self.convolutions is None:
            return nodes[0], nodes[1]
        neighbours = [adjacency(e, nodes.shape[2], mask=mask) for e, mask in zip(edges, masks, strict=True)]
        hidden = self.convolutions(
            nodes.flatten(0, 1),
            torch.cat(neighbours),
            dropout=self.settings.graph_dropout if self.training else 0.0,
            draws=generator(*key, "dropout"),
        )
        return hidden.unflatten(0, nodes.shape[:2]).unbind(dim=0)


def _cells(
    maps: Float[Tensor, "M D R S"], boxes: Float[Tensor, "B V 4"], flipped: Bool[Tensor, "B V"], *, graphs: int
) -> tuple[Float[Tensor, "V G N P D"], Float[Tensor, "V G N P 2"]]:
    """Return the cells of maps that lie view by view, and their centres."""
    rows, columns = maps.shape[2:]
    grid = location_grid(boxes.transpose(0, 1).float(), flipped.transpose(0, 1), rows=rows, columns=columns)
    cells = maps.flatten(2).transpose(1, 2).unflatten(0, (boxes.shape[1], graphs, -1))
    return cells, grid.unflatten(1, (graphs, -1))


def _retrieval_accuracy(affinities: Affinities, valid: Bool[Tensor, "G N"]) -> Float[Tensor, ""]:
    """Return the share of valid nodes of s whose best vertex affinity, among valid nodes of t, is their own."""
    others = torch.where(valid[:, None, :], affinities.vertex.detach(), -torch.inf)
    own = torch.diagonal(others, dim1=1, dim2=2)
    # strictly better than every other: ties, as of a collapsed encoder, do not count as found
    rivals = others.masked_fill(torch.eye(others.shape[1], dtype=torch.bool, device=others.device), -torch.inf)
    found = (own > rivals.max(dim=2).values) & valid
    return found.sum() / valid.sum().clamp(min=1)


def _edge_overlap(affinities: Affinities, valid: Bool[Tensor, "G N"]) -> Float[Tensor, ""]:
    """Return the share of edges of s, between valid nodes, that t has as well."""
    tables = [adjacency(e, valid.shape[1], mask=edge_mask(e, valid)) for e in (affinities.edges_s, affinities.edges_t)]
    return (tables[0] & tables[1]).sum() / tables[0].sum().clamp(min=1)
