"""What compiled transport kernels share: the places of vectors in a thread's scratch, and the groups of arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

# numba's cache on disk watches the file of an entry point, not of what that calls: entry points close over this sum
SOURCES = crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("compiled*.py"))))

FAR = 1e30  # a cost, an exponent: beyond everything that matters, and still finite in float32
TINY = 1e-37
TILE = 4
ROW_SUM, WEIGHT, MARGINAL, TOP = range(4)  # the vectors in `rows`
# the vectors in `columns`
B, ABSORBED, X, BASE, STEP, SCALED, COLUMN_SUM = range(7)
MASS, GAP, TARGET, EXCESS, RIGHT, INVERSE, SWEEP = range(7, 14)
SLOTS = 14


class Work(NamedTuple):
    """Scratch of one thread and its sizes.

    In lane vectors, `block` holds the M N entries of the problems (the cost, then the kernel, at last the plan), `rows`
    four vectors of M entries, `columns` vectors of N entries padded to a multiple of TILE and, behind them, a square
    matrix of that size. `strip` rows of a block fit into the first-level cache.
    """

    block: Any
    rows: Any
    columns: Any
    m: int
    n: int
    padded: int
    strip: int
    lanes: int


class Constants(NamedTuple):
    """The problem's numbers as kernels use them.

    tau = rho / (rho + epsilon), 1 where rho is infinite; slack = 1 - tau_a tau_b, without cancellation;
    row_scale = (1 - tau_a) / epsilon; a 2 at the end marks a number that takes binary exponents: times log2(e);
    q = epsilon / rho_b, d = (1 - tau_a) + q, shift_a = (1 - tau_a) / d and shift = 1 / d, 0 where both sides are hard.
    """

    epsilon: float
    inverse_epsilon: float
    inverse_epsilon2: float
    tau_a: float
    tau_b: float
    row_scale: float
    row_scale2: float
    slack: float
    q: float
    shift_a: float
    shift: float
    tolerance: float
    floor: float
    max_iterations: int


class Problems(NamedTuple):
    """The batch: cost (P, M N); a (P, M) or (1, M); b (P, N) or (1, N)."""

    cost: Any
    a: Any
    b: Any


class Answers(NamedTuple):
    """What is written: f (P, M), g (P, N), plan (P, M N) or (0, M N) for none, state (P, 3).

    The state is the L1 error of the column marginal, the steps taken and the status.
    """

    f: Any
    g: Any
    plan: Any
    state: Any
