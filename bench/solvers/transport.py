"""The optimal transport tables: two-sided and one-sided problems at equal residual, Newton's steps, scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import clock
import transport_peers as peers
from page import Table, milliseconds
from transport_problems import Problems, draw, worst_residual

from medalign_core.solvers.sinkhorn import Sinkhorn

TOLERANCE = 1e-6
SHAPES = ((50, 4), (197, 8))
ONE_SIDED = ((49, 4), (197, 8))
INF = float("inf")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One method's row: iterations, the worst residual they reach, and CPU seconds; nan where it offers nothing."""

    iterations: int
    residual: float
    forward: float
    backward: float


def tables(*, count: int, rounds: int) -> Iterator[Table]:
    """Yield all of them."""
    yield from two_sided(count=count, rounds=rounds)
    yield from one_sided(count=count, rounds=rounds)
    yield newton_steps()
    yield scaling(rounds=rounds)


def two_sided(*, count: int, rounds: int) -> Iterator[Table]:
    """Compare on unbalanced problems, epsilon 0.1, rho 1: every method at the fewest iterations that reach 1e-6."""
    methods = {
        "medalign, compiled": peers.ours("compiled"),
        "medalign, torch": peers.ours("torch"),
        "ott-jax, recentred": peers.ott_jax(log_domain=True, recentred=True),
        "ott-jax, kernel": peers.ott_jax(log_domain=False, recentred=False),
        "torch kernel loop, unrolled": peers.torch_loop(log_domain=False),
        "torch log-domain loop, unrolled": peers.torch_loop(log_domain=True),
        "geomloss, batch": peers.geomloss(),
        "POT, one by one": peers.pot_one_by_one(),
    }
    for shape in SHAPES:
        problems = draw(count, shape, epsilon=0.1, rho_a=1.0, rho_b=1.0)
        rows = measure(methods, problems, rounds=rounds)
        title = f"Unbalanced, {count} problems of {shape[0]} x {shape[1]}, epsilon 0.1, rho 1"
        yield _table(title, rows, against=("ott-jax, recentred", "ott-jax, recentred", "ott-jax, kernel"))


def one_sided(*, count: int, rounds: int) -> Iterator[Table]:
    """Compare where the token side is hard and tau_b = 0.5, epsilon 0.01: no peer batches this."""
    methods = {
        "medalign, compiled": peers.ours("compiled"),
        "medalign, torch": peers.ours("torch"),
        "torch log-domain loop, unrolled": peers.torch_loop(log_domain=True),
        "POT, one by one": peers.pot_one_by_one(),
    }
    for shape in ONE_SIDED:
        problems = draw(count, shape, epsilon=0.01, rho_a=INF, rho_b=0.01)
        rows = measure(methods, problems, rounds=rounds)
        title = f"One-sided, {count} problems of {shape[0]} x {shape[1]}, epsilon 0.01, rho_a inf, tau_b 0.5"
        yield _table(title, rows, against=("torch log-domain loop, unrolled",) * 2)


def newton_steps(*, count: int = 128) -> Table:
    """Count Newton's iterations to 1e-6, the worst problem of a batch, float64, and look for NaN in float32."""
    rows = []
    for shape in SHAPES:
        for epsilon in (0.1, 0.05, 0.02, 0.01, 0.005):
            cells = []
            for rho in (0.1, 1.0, 10.0, 100.0):
                problems = draw(count, shape, epsilon=epsilon, rho_a=rho, rho_b=rho)
                solver = Sinkhorn(epsilon=epsilon, rho=rho, tol=TOLERANCE)
                found = solver(problems.cost.double(), problems.a.double(), problems.b.double())
                single = solver(problems.cost, problems.a, problems.b)
                finite = bool(single.plan().isfinite().all())
                reached = "" if float(found.residual.max()) <= TOLERANCE else f" (residual {found.residual.max():.0e})"
                cells.append(f"{int(found.iterations.max())}{reached}{'' if finite else ' NaN in float32'}")
            rows.append((f"{shape[0]} x {shape[1]}", f"{epsilon:g}", *cells))
    return Table(
        title="Newton iterations to 1e-6, the worst of 128 problems",
        head=("M x N", "epsilon", "rho 0.1", "rho 1", "rho 10", "rho 100"),
        rows=rows,
    )


def scaling(*, rounds: int) -> Table:
    """Time both paths, forward with the plan, as the number of problems, of tokens and of prompts grow."""
    rows = []
    for problems, shape in (
        (320, (50, 4)),
        (3200, (50, 4)),
        (32000, (50, 4)),
        (3200, (100, 4)),
        (3200, (200, 4)),
        (3200, (50, 2)),
        (3200, (50, 8)),
        (3200, (50, 16)),
    ):
        batch = draw(problems, shape, epsilon=0.1, rho_a=1.0, rho_b=1.0)
        calls = {backend: peers.ours(backend).forward(batch, 50) for backend in ("compiled", "torch")}
        seconds = clock.medians(calls, rounds=rounds, budget=5.0)
        entries = batch.cost.numel()
        rows.append(
            (
                str(problems),
                f"{shape[0]} x {shape[1]}",
                *(milliseconds(seconds[name]) for name in calls),
                *(f"{1e9 * seconds[name] / entries:.1f}" for name in calls),
            )
        )
    return Table(
        title="Scaling of the forward solve, epsilon 0.1, rho 1",
        head=("problems", "M x N", "compiled, ms", "torch, ms", "compiled, ns per entry", "torch, ns per entry"),
        rows=rows,
    )


def measure(methods: dict[str, peers.Peer], problems: Problems, *, rounds: int) -> dict[str, Timed]:
    """Find each method's iterations on the first problems, then time all methods in interleaved rounds."""
    small = problems.first(320)
    iterations, residuals, forward, backward, scale = {}, {}, {}, {}, {}
    for name, peer in methods.items():
        part = problems.first(peer.sample) if peer.sample else small

        def residual(count: int, peer: peers.Peer = peer, part: Problems = part) -> float:
            f, g, _ = peer.forward(part, count)()  # type: ignore[misc]
            return worst_residual(part, f, g)

        iterations[name], residuals[name] = clock.smallest(residual, TOLERANCE, peer.candidates)
        timed = problems.first(peer.sample) if peer.sample else problems
        scale[name] = len(problems.cost) / len(timed.cost)
        forward[name] = peer.forward(timed, iterations[name])
        if peer.backward is not None:
            backward[name] = peer.backward(timed, iterations[name])
    for call in (*forward.values(), *backward.values()):
        call()  # compiles
    ahead = clock.medians(forward, rounds=rounds)
    both = clock.medians(backward, rounds=rounds)
    return {
        name: Timed(
            iterations=iterations[name],
            residual=residuals[name],
            forward=ahead[name] * scale[name],
            backward=both.get(name, float("nan")) * scale[name],
        )
        for name in methods
    }


def _table(title: str, rows: dict[str, Timed], *, against: tuple[str, ...]) -> Table:
    """Ratios are to the yardstick of the forward column, and to the best of the others for both directions."""
    yard = rows[against[0]].forward
    best = min(rows[name].backward for name in against[1:])
    return Table(
        title=title,
        head=(
            "method",
            "iterations",
            "residual",
            "forward, ms",
            f"of {against[0]}",
            "both ways, ms",
            "of the best peer",
        ),
        rows=[
            (
                name,
                str(row.iterations) if not name.startswith("medalign") else "own stop",
                f"{row.residual:.0e}",
                milliseconds(row.forward),
                f"{row.forward / yard:.3g}",
                milliseconds(row.backward),
                "-" if math.isnan(row.backward) else f"{row.backward / best:.3g}",
            )
            for name, row in rows.items()
        ],
    )
