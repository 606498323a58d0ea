"""How a transport problem ended."""

from enum import IntEnum


class Status(IntEnum):
    """CONVERGED, or why not.

    CONVERGED: the residual is at most tol. STALLED: it stopped falling, at the precision of the dtype, above tol; the
    plan is as good as float32 (or float64) allows. ITERATION_LIMIT: max_iterations came first. FAILED: the problem was
    not one (NaN, infinite cost, no mass), found on a device where raising would have meant waiting for it: its plan
    is 0 and its value is nan. On the CPU such a problem raises instead.
    """

    CONVERGED = 0
    STALLED = 1
    ITERATION_LIMIT = 2
    FAILED = 3
