"""Between arrays with one problem a row and blocks with one problem a lane.

A block holds entry e of problem `first + lane` in lane `lane` of its vector number `start + e`. Lanes past the last
problem repeat the last one: they read and write what its own lane does.
"""

from __future__ import annotations

from typing import no_type_check

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from medalign_core.solvers.transport.compiled_lanes import lanes_of, pointer, splat, store


@no_type_check
def _transposed(builder, rows):
    """Transpose a square of lane vectors by swapping off-diagonal halves, then quarters, and so on."""
    count = len(rows)
    half = count // 2
    while half:
        lower = [j if not j & half else count + j - half for j in range(count)]
        upper = [j + half if not j & half else count + j for j in range(count)]
        indices = ir.VectorType(ir.IntType(32), count)
        for i in range(count):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(indices, lower))
                rows[i + half] = builder.shuffle_vector(a, b, ir.Constant(indices, upper))
        half //= 2
    return rows


@no_type_check
def _row_pointers(context, builder, lanes, array, place):
    """Pointers at element `element` of the rows `first`, `first + 1`, ..., none beyond `last`."""
    array_type, value = array
    first, last, width, element = place
    integer = ir.IntType(64)
    at = pointer(context, builder, array_type, value)
    pointers = []
    for lane in range(lanes.count):
        row = builder.add(first, integer(lane))
        row = builder.select(builder.icmp_signed("<", row, last), row, last)
        pointers.append(at(builder.add(builder.mul(row, width), element)))
    return pointers


@intrinsic
@no_type_check
def _gather_square(typing_context, source, first, last, width, element, block, start):
    """As many entries as there are lanes, from `element` on, of as many rows, transposed into the block."""
    lanes = lanes_of(block)
    align = lanes.scalar.bitwidth // 8

    def code(context, builder, signature, args):
        integer = ir.IntType(64)
        pointers = _row_pointers(context, builder, lanes, (source, args[0]), args[1:5])
        columns = _transposed(builder, [builder.load(p, align=align) for p in pointers])
        at = pointer(context, builder, block, args[5])
        for i, column in enumerate(columns):
            vector = builder.add(args[6], integer(i))
            builder.store(column, at(builder.mul(vector, integer(lanes.count))), align=align)
        return context.get_dummy_value()

    return types.void(source, *[types.int64] * 4, block, types.int64), code


@intrinsic
@no_type_check
def _scatter_square(typing_context, block, start, target, first, last, width, element):
    """The inverse of `_gather_square`."""
    lanes = lanes_of(block)
    align = lanes.scalar.bitwidth // 8

    def code(context, builder, signature, args):
        integer = ir.IntType(64)
        at = pointer(context, builder, block, args[0])
        vectors = [builder.mul(builder.add(args[1], integer(i)), integer(lanes.count)) for i in range(lanes.count)]
        rows = _transposed(builder, [builder.load(at(vector), align=align) for vector in vectors])
        for row, p in zip(rows, _row_pointers(context, builder, lanes, (target, args[2]), args[3:7]), strict=True):
            builder.store(row, p, align=align)
        return context.get_dummy_value()

    return types.void(block, types.int64, target, *[types.int64] * 4), code


@njit(nogil=True)
@no_type_check
def gather(source, first, block, start, lanes):
    """Read `lanes` problems of source (P, E) from `first` on; a source of one row (1, E) is every problem's."""
    last, width = source.shape[0] - 1, source.shape[1]
    if last == 0:
        for e in range(width):
            store(block, start + e, splat(block, source[0, e]))
        return
    flat = source.reshape(-1)
    if width < lanes:
        for lane in range(lanes):
            row = min(first + lane, last)
            for e in range(width):
                block[(start + e) * lanes + lane] = source[row, e]
        return
    for corner in range(0, width, lanes):
        e = min(corner, width - lanes)  # the last square overlaps the one before
        _gather_square(flat, first, last, width, e, block, start + e)


@njit(nogil=True)
@no_type_check
def scatter(block, start, target, first, lanes):
    """Write a block's problems to the rows of target (P, E) from `first` on."""
    last, width = target.shape[0] - 1, target.shape[1]
    flat = target.reshape(-1)
    if width < lanes:
        for lane in range(min(lanes, last + 1 - first)):
            for e in range(width):
                target[first + lane, e] = block[(start + e) * lanes + lane]
        return
    for corner in range(0, width, lanes):
        e = min(corner, width - lanes)
        _scatter_square(block, start + e, flat, first, last, width, e)
