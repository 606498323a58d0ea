"""The graph matching tables: time and gap to the best known, beside scipy, pygmtools and pylibmgm; scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import clock
import numpy as np
from matching_problems import Planted, planted
from page import Table, milliseconds
from scipy.optimize import linear_sum_assignment

from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.matching_problem import score

SETS = {"structure helps (d 4, sigma 0.6)": (4, 0.6), "hard (d 8, sigma 1)": (8, 1.0)}
SIZES = (16, 32, 64, 128, 256)


@dataclass
class Found:
    """One method's figures over the seeds of one size."""

    seconds: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


def tables(*, rounds: int) -> Iterator[Table]:
    """Yield one table per set, the instances on which a peer finds more, and the scaling in nodes and neighbours."""
    for solve in methods(16).values():
        solve(planted(16, latent=4, noise=0.6, seed=0))  # compiles
    for title, values in SETS.items():
        yield _compare(title, *values, rounds=rounds)
    yield _instances()
    yield _scaling(rounds=rounds)


def methods(size: int) -> dict[str, Callable[[Planted], np.ndarray]]:
    """Return what can be run at this size: the dense (n^2, n^2) table of pygmtools is 1 GB at 128 nodes."""

    def with_solver(form: str = "dense", **settings: object) -> Callable[[Planted], np.ndarray]:
        solver = GraphMatching(**settings)  # type: ignore[arg-type]
        return lambda problem: solver(getattr(problem, form)).matching[0]

    found = {
        "assignment only, scipy": lambda problem: linear_sum_assignment(problem.dense.vertex_affinity[0], True)[1],
        "medalign, compiled": with_solver(backend="compiled"),
        "medalign, compiled, factor form": with_solver("factors", backend="compiled"),
        "medalign, NumPy": with_solver(backend="numpy"),
    }
    for budget in (0.01, 0.1, 1.0):
        found[f"medalign, anytime {budget:g} s"] = with_solver(backend="compiled", time_budget=budget)
    if size <= 64:
        found["pygmtools RRWM"] = with_solver(backend="pygmtools")
    if size <= 128:
        found["pylibmgm, default"] = with_solver(backend="pylibmgm")
    return found


def _compare(title: str, latent: int, noise: float, *, rounds: int) -> Table:
    columns = {size: _one_size(size, latent, noise, rounds=rounds) for size in SIZES}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    best = {size: np.max([found.objective for found in column.values()], axis=0) for size, column in columns.items()}
    rows = [(name, *(_cell(columns[size].get(name), best[size]) for size in SIZES)) for name in names]
    rows.append(
        (
            "compiled / calls of scipy's assignment",
            *(_ratio(columns[size], "medalign, compiled", "assignment only, scipy") for size in SIZES),
        )
    )
    rows.append(
        (
            "pylibmgm / compiled",
            *(_ratio(columns[size], "pylibmgm, default", "medalign, compiled") for size in SIZES),
        )
    )
    rows.append(
        ("NumPy / compiled", *(_ratio(columns[size], "medalign, NumPy", "medalign, compiled") for size in SIZES))
    )
    return Table(
        title=f"Second-order matching, {title}: ms / mean gap to the best known, % / accuracy",
        head=("method", *(f"n = {size}" for size in SIZES)),
        rows=rows,
    )


def _one_size(size: int, latent: int, noise: float, *, rounds: int) -> dict[str, Found]:
    column: dict[str, Found] = {}
    for seed in range(3):
        problem = planted(size, latent=latent, noise=noise, seed=seed)
        solvers = methods(size)
        calls = {name: partial(solve, problem) for name, solve in solvers.items()}
        seconds = clock.medians(calls, rounds=rounds, budget=5.0)
        for name, call in calls.items():
            matching = call()
            found = column.setdefault(name, Found())
            found.seconds.append(seconds[name])
            found.objective.append(float(score(problem.dense, matching[None])[0]))
            found.accuracy.append(float((matching == problem.truth).mean()))
    return column


def _instances(*, seeds: int = 10) -> Table:
    """Count the instances on which a peer's objective exceeds ours by more than rounding."""
    rows = []
    for title, (latent, noise) in SETS.items():
        for size in (16, 32, 64):
            problems = [planted(size, latent=latent, noise=noise, seed=seed) for seed in range(seeds)]
            reached = {
                name: np.array([score(p.dense, solve(p)[None])[0] for p in problems])
                for name, solve in methods(size).items()
            }
            peers = ("pygmtools RRWM", "pylibmgm, default")
            for name in ("medalign, compiled", "medalign, anytime 0.01 s", "medalign, anytime 0.1 s"):
                short = [int((reached[peer] > reached[name] + 1e-6 * np.abs(reached[name])).sum()) for peer in peers]
                rows.append((title, str(size), name, *(f"{count} of {seeds}" for count in short)))
    return Table(
        title="Instances on which a peer finds a better matching",
        head=("set", "n", "our setting", "pygmtools RRWM", "pylibmgm, default"),
        rows=rows,
    )


def _cell(found: Found | None, best: np.ndarray) -> str:
    if found is None:
        return "-"
    gap = 100 * np.mean((best - found.objective) / np.abs(best))
    return f"{milliseconds(float(np.median(found.seconds)))} / {gap:.2f} / {np.mean(found.accuracy):.2f}"


def _ratio(column: dict[str, Found], numerator: str, denominator: str) -> str:
    if numerator not in column or denominator not in column:
        return "-"
    pairs = zip(column[numerator].seconds, column[denominator].seconds, strict=True)
    return f"{np.median([above / below for above, below in pairs]):.3g}"


def _scaling(*, rounds: int) -> Table:
    rows = []
    for size, neighbours in ((16, 5), (32, 5), (64, 5), (128, 5), (256, 5), (64, 3), (64, 10), (64, 20)):
        problem = planted(size, latent=4, noise=0.6, seed=0, neighbours=neighbours)
        calls = {
            f"{form}, {backend}": partial(GraphMatching(backend=backend), getattr(problem, form))
            for form in ("dense", "factors")
            for backend in ("compiled", "numpy")
        }
        seconds = clock.medians(calls, rounds=rounds, budget=3.0)
        rows.append((str(size), str(neighbours), *(milliseconds(seconds[name]) for name in calls)))
    return Table(
        title="Scaling of one matching in ms",
        head=("n", "k", "table, compiled", "table, NumPy", "factors, compiled", "factors, NumPy"),
        rows=rows,
    )
