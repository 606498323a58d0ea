"""Vectors of as many numbers as one 64-byte register holds (lanes), as a numba type with arithmetic, load and store.

Kernels put one problem into each lane: sums over a problem become sums of vectors, without a reduction in a register.
LLVM splits such a vector where registers are narrower: the code is right on every machine, and fast where AVX-512 is.
Where an operation takes a lane vector and a scalar, the scalar goes into every lane in the vector's precision.

Importing this file teaches numba the types; `no_type_check` keeps tests' type checkers out of what numba compiles.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, no_type_check

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

BYTES = 64  # one AVX-512 register: 16 float32, 8 float64
_FLOAT = {32: ir.FloatType(), 64: ir.DoubleType()}


class Lanes(types.Type):
    """The numba type of one lane vector of float32 or float64."""

    def __init__(self, scalar: types.Float):
        self.scalar, self.count = scalar, BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"Lanes({scalar}, {self.count})")


class Mask(types.Type):
    """The numba type of one truth value per lane."""

    def __init__(self, count: int):
        self.count = count
        super().__init__(name=f"Mask({count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes):
        super().__init__(dmm, fe_type, ir.VectorType(_FLOAT[fe_type.scalar.bitwidth], fe_type.count))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Mask):
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.count))


def lanes_of(array: Any) -> Lanes:
    """The lane type of a numba array type."""
    return Lanes(array.dtype)


def spread(builder: Any, value: Any, given: Any, lanes: Lanes) -> Any:
    """The LLVM vector of `value`: itself if it is one, otherwise the scalar in every lane."""
    if isinstance(given, Lanes):
        return value
    to = _FLOAT[lanes.scalar.bitwidth]
    if isinstance(given, types.Integer | types.IntegerLiteral):
        value = builder.sitofp(value, to)
    elif given.bitwidth > lanes.scalar.bitwidth:
        value = builder.fptrunc(value, to)
    elif given.bitwidth < lanes.scalar.bitwidth:
        value = builder.fpext(value, to)
    vector = ir.VectorType(to, lanes.count)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def pointer(context: Any, builder: Any, array_type: Any, array: Any) -> Callable[[Any], Any]:
    """A function from the index of an element of a flat array to the pointer at the lane vector that starts there."""
    data = context.make_array(array_type)(context, builder, array).data
    vector = context.get_value_type(lanes_of(array_type))
    return lambda element: builder.bitcast(builder.gep(data, [element]), vector.as_pointer())


@intrinsic
@no_type_check
def load(typing_context, array, index):
    """The lane vector number `index` of a flat array."""
    lanes = lanes_of(array)

    def code(context, builder, signature, args):
        at = pointer(context, builder, array, args[0])(builder.mul(args[1], ir.IntType(64)(lanes.count)))
        return builder.load(at, align=lanes.scalar.bitwidth // 8)

    return lanes(array, types.int64), code


@intrinsic
@no_type_check
def store(typing_context, array, index, value):
    """Write a lane vector, or a scalar in every lane, as number `index` of a flat array."""
    lanes = lanes_of(array)

    def code(context, builder, signature, args):
        at = pointer(context, builder, array, args[0])(builder.mul(args[1], ir.IntType(64)(lanes.count)))
        builder.store(spread(builder, args[2], value, lanes), at, align=lanes.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), code


@intrinsic
@no_type_check
def splat(typing_context, array, value):
    """A lane vector of the flat array's type with `value` in every lane."""
    lanes = lanes_of(array)
    return lanes(array, value), lambda context, builder, signature, args: spread(builder, args[1], value, lanes)


@intrinsic
@no_type_check
def any_lane(typing_context, mask):
    """Whether the mask holds in at least one lane."""

    def code(context, builder, signature, args):
        bits = builder.bitcast(args[0], ir.IntType(mask.count))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(mask), code


@intrinsic
@no_type_check
def select(typing_context, mask, a, b):
    """`a` in the lanes where the mask holds, `b` in the others; at least one of the two a lane vector."""
    lanes = a if isinstance(a, Lanes) else b

    def code(context, builder, signature, args):
        return builder.select(args[0], spread(builder, args[1], a, lanes), spread(builder, args[2], b, lanes))

    return lanes(mask, a, b), code


@no_type_check
def _operation(emit, operands):
    """Signature and code of an operation on lane vectors, or on lane vectors and scalars."""
    lanes = next(operand for operand in operands if isinstance(operand, Lanes))

    def code(context, builder, signature, args):
        return emit(builder, *(spread(builder, arg, given, lanes) for arg, given in zip(args, operands, strict=True)))

    return lanes(*operands), code


@no_type_check
def _fmuladd(builder, a, b, c):
    name = f"llvm.fmuladd.v{a.type.count}f{32 if a.type.element == _FLOAT[32] else 64}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


@intrinsic
@no_type_check
def fma(typing_context, a, b, c):
    """Return a b + c, rounded once where the machine can."""
    return _operation(_fmuladd, (a, b, c))


@intrinsic
@no_type_check
def maximum(typing_context, a, b):
    """The larger; `b` where they do not compare (one is nan)."""
    return _operation(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b), (a, b))


@intrinsic
@no_type_check
def minimum(typing_context, a, b):
    """The smaller; `b` where they do not compare (one is nan)."""
    return _operation(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b), (a, b))


@no_type_check
def _define(function, emit, answer):
    """Give Python's operator a meaning between lane vectors, and between a lane vector and a scalar."""

    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            lanes = next((arg for arg in args if isinstance(arg, Lanes)), None)
            others_fit = all(isinstance(arg, Lanes | types.Float | types.Integer) for arg in args)
            return signature(answer(lanes), *args) if lanes is not None and others_fit and not kws else None

    def code(context, builder, signature, args):
        lanes = next(arg for arg in signature.args if isinstance(arg, Lanes))
        vectors = [spread(builder, arg, given, lanes) for arg, given in zip(args, signature.args, strict=True)]
        return emit(builder, *vectors)

    infer_global(function)(Typing)
    for operands in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(function, *operands)(code)


@no_type_check
def _define_logic(function, emit):
    """Give Python's bitwise operator a meaning between masks."""

    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            fits = all(isinstance(arg, Mask) for arg in args) and not kws
            return signature(args[0], *args) if fits else None

    infer_global(function)(Typing)
    arity = 1 if function is operator.invert else 2
    lower_builtin(function, *([Mask] * arity))(lambda context, builder, signature, args: emit(builder, *args))


_define(operator.add, lambda builder, a, b: builder.fadd(a, b), lambda lanes: lanes)
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b), lambda lanes: lanes)
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b), lambda lanes: lanes)
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b), lambda lanes: lanes)
_define(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), lambda lanes: Mask(lanes.count))
_define(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), lambda lanes: Mask(lanes.count))
_define(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), lambda lanes: Mask(lanes.count))
_define(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), lambda lanes: Mask(lanes.count))
_define(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), lambda lanes: Mask(lanes.count))
_define_logic(operator.and_, lambda builder, a, b: builder.and_(a, b))
_define_logic(operator.or_, lambda builder, a, b: builder.or_(a, b))
_define_logic(operator.invert, lambda builder, a: builder.not_(a))


@njit(nogil=True, forceinline=True)
@no_type_check
def store_four(array, index, vectors):
    """Write four lane vectors in a row, from number `index` on."""
    store(array, index, vectors[0])
    store(array, index + 1, vectors[1])
    store(array, index + 2, vectors[2])
    store(array, index + 3, vectors[3])
