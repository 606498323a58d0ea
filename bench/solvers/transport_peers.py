"""What others run on the same transport problems: ott-jax, POT, geomloss, and the plain loops of papers in torch.

A peer is two functions of (problems, iterations): `forward` returns a call that gives (f, g, plan), `backward` one
that gives the gradient of <weight, plan> by the cost. KL reference everywhere: OTT regularises by -H(P), so its cost
is shifted by -epsilon log(a b).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import ot
import torch
from geomloss import ot as geomloss_ot
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn
from torch import Tensor
from transport_problems import Problems

from medalign_core.solvers.sinkhorn import Sinkhorn

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to solve the problems.

    Attributes:
        forward: (problems, iterations) -> a call that returns (f, g, plan).
        backward: (problems, iterations) -> a call that returns the cost's gradient; None where there is none.
        candidates: the iteration counts to try for a residual, ascending.
        sample: how many problems are timed, the rest being extrapolated; 0 for all.
    """

    forward: Callable[[Problems, int], Call]
    backward: Callable[[Problems, int], Call] | None
    candidates: tuple[int, ...]
    sample: int = 0


def ours(backend: str) -> Peer:
    """MedAlign's Newton on the smaller side's dual; it stops by itself, so `iterations` is only its limit."""

    def solver(problems: Problems, limit: int) -> Sinkhorn:
        return Sinkhorn(
            epsilon=problems.epsilon,
            rho_a=problems.rho_a,
            rho_b=problems.rho_b,
            tol=1e-6,
            max_iterations=limit,
            backend=backend,
            gradient="implicit",
        )

    def forward(problems: Problems, limit: int) -> Call:
        solve = solver(problems, limit)

        def call() -> object:
            with torch.no_grad():
                found = solve(problems.cost, problems.a, problems.b)
                return found.f, found.g, found.plan()

        return call

    def backward(problems: Problems, limit: int) -> Call:
        solve = solver(problems, limit)
        cost = problems.cost.clone().requires_grad_()

        def call() -> object:
            plan = solve(cost, problems.a, problems.b).plan()
            return torch.autograd.grad(plan, cost, problems.weight)[0]

        return call

    return Peer(forward=forward, backward=backward, candidates=(50,))


def ott_jax(*, log_domain: bool, recentred: bool) -> Peer:
    """OTT-JAX, vmapped and jitted, with its implicit differentiation."""

    def plan(problems: Problems, count: int) -> Callable:
        solver = sinkhorn.Sinkhorn(
            lse_mode=log_domain,
            threshold=0.0,
            min_iterations=count,
            max_iterations=count,
            inner_iterations=count,
            recenter_potentials=recentred,
        )
        a, b = jnp.asarray(problems.a.numpy()), jnp.asarray(problems.b.numpy())
        shift = problems.epsilon * jnp.log(a[:, None] * b)

        def one(cost: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            space = geometry.Geometry(cost_matrix=cost - shift, epsilon=problems.epsilon)
            found = solver(linear_problem.LinearProblem(space, a, b, *problems.tau))
            return found.f, found.g, found.matrix

        return one

    def forward(problems: Problems, count: int) -> Call:
        run, cost = jax.jit(jax.vmap(plan(problems, count))), jnp.asarray(problems.cost.numpy())
        return lambda: jax.block_until_ready(run(cost))

    def backward(problems: Problems, count: int) -> Call:
        one = plan(problems, count)
        gradient = jax.jit(jax.vmap(jax.grad(lambda cost, weight: (one(cost)[2] * weight).sum())))
        cost, weight = jnp.asarray(problems.cost.numpy()), jnp.asarray(problems.weight.numpy())
        return lambda: jax.block_until_ready(gradient(cost, weight))

    # recentring removes the slow common shift: an order of magnitude fewer sweeps
    candidates = tuple(range(16, 41, 4)) if recentred else tuple(range(68, 101, 8))
    return Peer(forward=forward, backward=backward, candidates=candidates)


def torch_loop(*, log_domain: bool) -> Peer:
    """Alternating updates for a whole batch in torch, differentiated through the loop: what papers run."""
    solve = _log_sweeps if log_domain else _kernel_sweeps

    def forward(problems: Problems, count: int) -> Call:
        def call() -> object:
            with torch.no_grad():
                return solve(problems, problems.cost, count)

        return call

    def backward(problems: Problems, count: int) -> Call:
        cost = problems.cost.clone().requires_grad_()
        return lambda: torch.autograd.grad(solve(problems, cost, count)[2], cost, problems.weight)[0]

    return Peer(forward=forward, backward=backward, candidates=tuple(range(20, 101, 4)))


def pot_one_by_one() -> Peer:
    """POT's unbalanced Sinkhorn, which takes one problem a call."""

    def forward(problems: Problems, count: int) -> Call:
        costs = problems.cost.double().numpy()
        a, b = problems.a.double().numpy(), problems.b.double().numpy()

        def call() -> object:
            return _stack([_pot(problems, cost, a, b, count) for cost in costs], problems.epsilon)

        return call

    def backward(problems: Problems, count: int) -> Call:
        costs = [cost.double().requires_grad_() for cost in problems.cost]
        a, b = problems.a.double(), problems.b.double()

        def call() -> object:
            return [
                torch.autograd.grad((_pot(problems, cost, a, b, count)[0] * weight).sum(), cost)[0]
                for cost, weight in zip(costs, problems.weight, strict=True)
            ]

        return call

    return Peer(forward=forward, backward=backward, candidates=tuple(range(68, 101, 8)), sample=4)


def geomloss() -> Peer:
    """Geomloss's batch solver: it anneals epsilon over the given number of iterations. Its plan has no gradient."""

    def forward(problems: Problems, count: int) -> Call:
        a, b = (side.expand(len(problems.cost), -1).contiguous() for side in (problems.a, problems.b))

        def call() -> object:
            found = geomloss_ot.solve_batch(
                problems.cost, reg=problems.epsilon, a=a, b=b, unbalanced=problems.rho_a, max_iter=count
            )
            return found.potential_a, found.potential_b, found.plan

        return call

    return Peer(forward=forward, backward=None, candidates=(100,))


def _log_sweeps(problems: Problems, cost: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    (tau_a, tau_b), scaled = problems.tau, cost / -problems.epsilon
    log_a, log_b = problems.a.log()[None, :, None], problems.b.log()[None, None, :]
    g = torch.zeros(cost.shape[0], cost.shape[2])
    for _ in range(count):
        f = -tau_a * torch.logsumexp(scaled + (log_b + g[:, None, :]), 2)
        g = -tau_b * torch.logsumexp(scaled + (log_a + f[:, :, None]), 1)
    plan = torch.exp(f[:, :, None] + g[:, None, :] + scaled + log_a + log_b)
    return f * problems.epsilon, g * problems.epsilon, plan


def _kernel_sweeps(problems: Problems, cost: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    tau_a, tau_b = problems.tau
    kernel = torch.exp(cost / -problems.epsilon)
    a, b = problems.a[None, :, None], problems.b[None, :, None]
    v = torch.ones(cost.shape[0], cost.shape[2], 1)
    for _ in range(count):
        u = torch.bmm(kernel, b * v).pow(-tau_a)
        v = torch.bmm(kernel.transpose(1, 2), a * u).pow(-tau_b)
    plan = (a * u) * kernel * (b * v).transpose(1, 2)
    return u[..., 0].log() * problems.epsilon, v[..., 0].log() * problems.epsilon, plan


def _pot(problems: Problems, cost: np.ndarray | Tensor, a: object, b: object, count: int) -> tuple:
    plan, log = ot.unbalanced.sinkhorn_unbalanced(
        a,
        b,
        cost,
        problems.epsilon,
        (problems.rho_a, problems.rho_b),
        method="sinkhorn",
        reg_type="kl",
        numItermax=count,
        stopThr=0.0,
        log=True,
    )
    return plan, log


def _stack(found: list[tuple], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    f, g = (epsilon * np.stack([log[side] for _, log in found]) for side in ("logu", "logv"))
    return f, g, np.stack([plan for plan, _ in found])
