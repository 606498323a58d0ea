"""Exponentials and logarithms of lane vectors, as polynomials: numba's wheels bring no vector mathematics library.

All are within 2 units in the last place on normal numbers, in float32 and in float64, and total: an exponential is
exactly 0 below the smallest normal number and saturates at the largest power of e or 2; the logarithm of anything below
the smallest normal number is that number's. An exponential keeps nan.

Range reduction and polynomials: float32 after Moshier's Cephes (expf, exp2f, logf); float64 the Taylor series of exp on
[-log(2)/2, log(2)/2] and the rational form of log of Sun's fdlibm (e_log.c).
"""

from __future__ import annotations

from math import factorial
from typing import no_type_check

from llvmlite import ir
from numba import njit
from numba.extending import intrinsic, overload

from medalign_core.solvers.transport.compiled_lanes import Lanes, fma, maximum, minimum

_MANTISSA, _BIAS = {32: 23, 64: 52}, {32: 127, 64: 1023}
_ROOT_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}  # the bits of sqrt(1/2)
ROUND32, ROUND64 = 1.5 * 2.0**23, 1.5 * 2.0**52  # adding and taking away this rounds to an integer
LOG2_E, LOG_2 = 1.4426950408889634, 0.6931471805599453
LOG_2_32 = (0.693359375, -2.12194440e-4)  # log(2) in two parts, the first short enough that n * first is exact
LOG_2_64 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
EXP32 = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
EXP2_32 = (
    *(1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3),
    *(5.550332471162809e-2, 2.402264791363012e-1, 6.931472028550421e-1),
)
EXP64 = tuple(1 / factorial(i) for i in range(13, 1, -1))
LOG32 = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
LOG64 = (
    *(1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01),
    *(2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01),
)
TINY32, TINY64 = 2.0**-126, 2.0**-1022


@no_type_check
def exp(x):
    """Return e^x of a lane vector (inside numba only)."""
    raise NotImplementedError


@no_type_check
def exp2_below(x, bound):
    """Return 2^min(x, bound) of a lane vector (inside numba only); bound is at most 127 in float32, 1023 in float64."""
    raise NotImplementedError


@no_type_check
def log(x):
    """Return the natural logarithm of a lane vector (inside numba only)."""
    raise NotImplementedError


@no_type_check
def log2(x):
    """Return the binary logarithm of a lane vector (inside numba only)."""
    raise NotImplementedError


@no_type_check
def _integers(lanes):
    return ir.VectorType(ir.IntType(lanes.scalar.bitwidth), lanes.count)


@no_type_check
def _constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


@intrinsic
@no_type_check
def _power_of_two(typing_context, rounded):
    """2^n for rounded = ROUND + n; exactly 0 for n = 1 - the largest exponent."""
    width, integers = rounded.scalar.bitwidth, _integers(rounded)

    def code(context, builder, signature, args):
        bits = builder.shl(builder.bitcast(args[0], integers), _constant(integers, _MANTISSA[width]))
        bits = builder.add(bits, _constant(integers, _BIAS[width] << _MANTISSA[width]))
        return builder.bitcast(bits, args[0].type)

    return rounded(rounded), code


@no_type_check
def _exponent_bits(builder, x, lanes):
    """The integer e of x = m 2^e, m in [sqrt(1/2), sqrt(2))."""
    integers = _integers(lanes)
    bits = builder.sub(builder.bitcast(x, integers), _constant(integers, _ROOT_HALF[lanes.scalar.bitwidth]))
    return builder.ashr(bits, _constant(integers, _MANTISSA[lanes.scalar.bitwidth]))


@intrinsic
@no_type_check
def _exponent(typing_context, x):
    """Return e of x = m 2^e as a number."""
    return x(x), lambda context, builder, signature, args: builder.sitofp(
        _exponent_bits(builder, args[0], x), args[0].type
    )


@intrinsic
@no_type_check
def _mantissa(typing_context, x):
    """Return m of x = m 2^e."""
    integers = _integers(x)

    def code(context, builder, signature, args):
        shift = _constant(integers, _MANTISSA[x.scalar.bitwidth])
        scale = builder.shl(_exponent_bits(builder, args[0], x), shift)
        return builder.bitcast(builder.sub(builder.bitcast(args[0], integers), scale), args[0].type)

    return x(x), code


_inlined = njit(nogil=True, forceinline=True)


@_inlined
@no_type_check
def _exp32(x):
    x = maximum(-88.02969193, minimum(88.0, x))
    rounded = fma(x, LOG2_E, ROUND32)
    n = rounded - ROUND32
    r = fma(n, -LOG_2_32[1], fma(n, -LOG_2_32[0], x))
    p = fma(r, EXP32[0], EXP32[1])
    p = fma(p, r, EXP32[2])
    p = fma(p, r, EXP32[3])
    p = fma(p, r, EXP32[4])
    p = fma(p, r, EXP32[5])
    return fma(p, r * r, r + 1.0) * _power_of_two(rounded)


@_inlined
@no_type_check
def _exp2_below_32(x, bound):
    x = maximum(-127.0, minimum(bound, x))
    rounded = x + ROUND32
    r = x - (rounded - ROUND32)
    p = fma(r, EXP2_32[0], EXP2_32[1])
    p = fma(p, r, EXP2_32[2])
    p = fma(p, r, EXP2_32[3])
    p = fma(p, r, EXP2_32[4])
    p = fma(p, r, EXP2_32[5])
    return fma(p, r, 1.0) * _power_of_two(rounded)


@_inlined
@no_type_check
def _taylor64(r, rounded):
    p = fma(r, EXP64[0], EXP64[1])
    for i in range(2, 12):
        p = fma(p, r, EXP64[i])
    return fma(p, r * r, r + 1.0) * _power_of_two(rounded)


@_inlined
@no_type_check
def _exp64(x):
    x = maximum(-709.0895657128241, minimum(709.0, x))
    rounded = fma(x, LOG2_E, ROUND64)
    n = rounded - ROUND64
    return _taylor64(fma(n, -LOG_2_64[1], fma(n, -LOG_2_64[0], x)), rounded)


@_inlined
@no_type_check
def _exp2_below_64(x, bound):
    x = maximum(-1023.0, minimum(bound, x))
    rounded = x + ROUND64
    return _taylor64((x - (rounded - ROUND64)) * LOG_2, rounded)


@_inlined
@no_type_check
def _split32(x):
    """The exponent e of x = m 2^e, r = m - 1, and log(1 + r) - r."""
    x = maximum(x, TINY32)
    r = _mantissa(x) - 1.0
    square = r * r
    p = fma(r, LOG32[0], LOG32[1])
    p = fma(p, r, LOG32[2])
    p = fma(p, r, LOG32[3])
    p = fma(p, r, LOG32[4])
    p = fma(p, r, LOG32[5])
    p = fma(p, r, LOG32[6])
    p = fma(p, r, LOG32[7])
    p = fma(p, r, LOG32[8])
    return _exponent(x), r, square * fma(p, r, -0.5)


@_inlined
@no_type_check
def _log32(x):
    e, r, rest = _split32(x)
    return fma(e, LOG_2_32[0], r + fma(e, LOG_2_32[1], rest))


@_inlined
@no_type_check
def _log2_32(x):
    e, r, rest = _split32(x)
    return fma(r + rest, LOG2_E, e)


@_inlined
@no_type_check
def _split64(x):
    """The same in float64."""
    x = maximum(x, TINY64)
    r = _mantissa(x) - 1.0
    s = r / (r + 2.0)
    square = s * s
    p = fma(square, LOG64[0], LOG64[1])
    for i in range(2, 7):
        p = fma(p, square, LOG64[i])
    half = r * r * 0.5
    return _exponent(x), r, fma(s, fma(p, square, half), half * -1.0)


@_inlined
@no_type_check
def _log64(x):
    e, r, rest = _split64(x)
    return fma(e, LOG_2_64[0], r + fma(e, LOG_2_64[1], rest))


@_inlined
@no_type_check
def _log2_64(x):
    e, r, rest = _split64(x)
    return fma(r + rest, LOG2_E, e)


@overload(exp)
@no_type_check
def _exp_of(x):
    if isinstance(x, Lanes):
        return (lambda x: _exp32(x)) if x.scalar.bitwidth == 32 else (lambda x: _exp64(x))
    return None


@overload(exp2_below)
@no_type_check
def _exp2_below_of(x, bound):
    if isinstance(x, Lanes):
        if x.scalar.bitwidth == 32:
            return lambda x, bound: _exp2_below_32(x, bound)
        return lambda x, bound: _exp2_below_64(x, bound)
    return None


@overload(log)
@no_type_check
def _log_of(x):
    if isinstance(x, Lanes):
        return (lambda x: _log32(x)) if x.scalar.bitwidth == 32 else (lambda x: _log64(x))
    return None


@overload(log2)
@no_type_check
def _log2_of(x):
    if isinstance(x, Lanes):
        return (lambda x: _log2_32(x)) if x.scalar.bitwidth == 32 else (lambda x: _log2_64(x))
    return None
