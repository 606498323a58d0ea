"""The pictures of the solver pages, drawn by the solvers themselves: python scripts/pictures.py [FOLDER].

Needs the extra `demo` (a stained tissue section and a retina ship with scikit-image).
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from numpy import ndarray
from skimage import data, transform
from sklearn.cluster import KMeans

from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.solvers.sinkhorn import Sinkhorn

GRID = 14  # patches along a side
RIGHT, WRONG, EDGE = "#0b6fae", "#c8500a", "#b9c0c7"


def main() -> None:
    """Draw all pictures into a folder, docs/pictures by default."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name, draw in {"plan": plan, "matching": matching, "anytime": anytime}.items():
        figure = draw()
        figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight", facecolor="white")
        pyplot.close(figure)


def plan() -> pyplot.Figure:
    """Patches of a tissue section against four prompts, one of which is a stranger to it: balanced and not."""
    tissue = transform.resize(data.immunohistochemistry(), (448, 448))
    patches = _describe(tissue)
    prompts = KMeans(3, n_init=10, random_state=0).fit(patches).cluster_centers_
    stranger = _describe(transform.resize(data.retina(), (448, 448)))
    far = stranger[np.argmax(((stranger[:, None] - prompts) ** 2).sum(2).min(1))]
    prompts = np.vstack([prompts, far])
    unit = [torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)) for rows in (patches, prompts)]
    cost = (1 - unit[0] @ unit[1].T)[None]
    settings = {"balanced": {}, "prompts soft": {"rho_b": 0.05}}
    figure, axes = pyplot.subplots(2, 5, figsize=(10, 4.4), gridspec_kw={"wspace": 0.12})
    for row, (title, rho) in zip(axes, settings.items(), strict=True):
        found = Sinkhorn(epsilon=0.05, **rho)(cost).plan()[0]
        row[0].imshow(tissue)
        row[0].set_title(title, loc="left")
        for column, axis in enumerate(row[1:]):
            axis.imshow(tissue.mean(2), cmap="gray", vmin=-0.5, vmax=1.2)
            heat = found[:, column].reshape(GRID, GRID).numpy() * GRID**2
            axis.imshow(np.kron(heat, np.ones((32, 32))), cmap="magma", alpha=0.6, vmin=0, vmax=1)
            name = f"prompt {column + 1}" if column < 3 else "stranger"
            axis.set_title(f"{name}: {100 * float(found[:, column].sum()):.0f} %")
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def matching() -> pyplot.Figure:
    """Two noisy views of the same points: the assignment by appearance alone, and with the edges."""
    draws = np.random.default_rng(3)
    points = draws.uniform(size=(24, 2))
    look = draws.standard_normal((24, 3))
    views = [points + 0.02 * draws.standard_normal(points.shape) for _ in range(2)]
    looks = [look + 0.9 * draws.standard_normal(look.shape) for _ in range(2)]
    edges = [_nearest(view, 4) for view in views]
    ahead, behind = ((_unit(v[e[:, 1]] - v[e[:, 0]]))[None] for v, e in zip(views, edges, strict=True))
    problem = MatchingProblem(
        vertex_affinity=(_unit(looks[0]) @ _unit(looks[1]).T)[None],
        edges_s=edges[0][None],
        edges_t=edges[1][None],
        edge_features_s=ahead,
        edge_features_t=behind,
    )
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for axis, second in zip(axes, (False, True), strict=True):
        found = GraphMatching(second_order=second)(problem).matching[0]
        right = int((found == np.arange(24)).sum())
        axis.set_title(f"{'nodes and edges' if second else 'nodes alone'}: {right} of 24 right", loc="left")
        for offset, view, pairs in zip((0.0, 1.5), views, edges, strict=True):
            for i, j in pairs:
                axis.plot(view[[i, j], 0] + offset, view[[i, j], 1], color=EDGE, linewidth=0.7, zorder=0)
            axis.scatter(view[:, 0] + offset, view[:, 1], s=18, color="#27313a", zorder=3)
        for i, a in enumerate(found):
            style = (
                {"color": RIGHT, "linewidth": 1.0} if i == a else {"color": WRONG, "linewidth": 1.0, "dashes": (4, 2)}
            )
            axis.plot([views[0][i, 0], views[1][a, 0] + 1.5], [views[0][i, 1], views[1][a, 1]], zorder=2, **style)
        axis.set_axis_off()
    return figure


def anytime() -> pyplot.Figure:
    """The objective against time, as a share of the best one seen, for three sizes."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "bench" / "solvers"))
    from matching_problems import planted

    solver = GraphMatching(time_budget=2.0)
    solver(planted(16, latent=8, noise=1.0, seed=0).dense)  # compiles
    figure, axis = pyplot.subplots(figsize=(6.4, 3.2))
    for size, colour in ((64, "#7aa6c2"), (128, "#0b6fae"), (256, "#27313a")):
        trace = solver(planted(size, latent=8, noise=1.0, seed=0).dense).trace[0]
        gap = 100 * (1 - trace[:, 1] / trace[-1, 1])
        axis.step(1e3 * trace[:, 0], gap, where="post", color=colour)
        axis.annotate(
            f"n = {size}", (1e3 * trace[0, 0], gap[0]), textcoords="offset points", xytext=(5, 3), color=colour
        )
    axis.set(xscale="log", xlabel="ms of one core", ylabel="% below the best of 2 s")
    return figure


def _describe(image: ndarray) -> ndarray:
    """Return (GRID^2, D) standardised colour and texture of the patches."""
    size = image.shape[0] // GRID
    patches = image.reshape(GRID, size, GRID, size, 3).transpose(0, 2, 1, 3, 4).reshape(GRID**2, -1, 3)
    features = np.concatenate([patches.mean(1), patches.std(1), np.abs(np.diff(patches, axis=1)).mean(1)], axis=1)
    return (features - features.mean(0)) / features.std(0)


def _nearest(points: ndarray, neighbours: int) -> ndarray:
    distance = ((points[:, None] - points[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    heads = np.argsort(distance, axis=1)[:, :neighbours]
    return np.stack([np.repeat(np.arange(len(points)), neighbours), heads.reshape(-1)], axis=1)


def _unit(rows: ndarray) -> ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
