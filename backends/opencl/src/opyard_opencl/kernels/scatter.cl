// Writing by position: each element of the output is written by one work item alone, which goes through the updates in their
// order. So results do not depend on chance, also where several updates meet. OUT is what is accumulated in.
// how: 0 the last update stays, 1 sum, 2 product, 3 the greatest, 4 the least. A position out of range is passed over.

static inline T combined(int how, T old, T update) {
    switch (how) {
        case 1: return (T)(old + update);
        case 2: return (T)(old * update);
        case 3: return greatest_of(old, update);
        case 4: return least_of(old, update);
        default: return update;
    }
}

kernel void begin(global const X *restrict x, global OUT *restrict out, long count, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, count);
    for (long i = first; i < last; i++) STORE_OUT(out, i, (T)LOAD_X(x, i));
}

kernel void finish(global const OUT *restrict sums, global X *restrict out, long count, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, count);
    for (long i = first; i < last; i++) STORE_X(out, i, (T)LOAD_OUT(sums, i));
}

// A lane is what the indices have along the axis, length of them, and what the output has, of this size and stride. A unit is
// (lane, part of the output's places). table: for each axis of the lanes its size, its stride in updates and in the output.
kernel void scatter_lanes(global const INDEX *restrict indices, global const X *restrict updates, global OUT *restrict out,
                          long units, long parts, long length, long size, long update_stride, long stride, long step,
                          int how, int rank, global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long part = u % parts, low = part * size / parts, high = (part + 1) * size / parts;
        long rest = u / parts, from = 0, to = 0;
        for (int axis = rank - 1; axis >= 0; axis--) {
            const long number = rest % table[axis];
            rest /= table[axis];
            from += number * table[rank + axis];
            to += number * table[2 * rank + axis];
        }
        for (long r = 0; r < length; r++, from += update_stride) {
            long place = (long)LOAD_INDEX(indices, from);
            place += place < 0 ? size : 0;
            if (place < low || place >= high) continue;
            const long at = to + place * stride;
            STORE_OUT(out, at, combined(how, (T)LOAD_OUT(out, at), (T)LOAD_X(updates, from)));
        }
    }
}

// Updates [count, width] at index tuples [count, depth] of an output [positions, width]. A unit is (part of the positions,
// chunk of columns). table: the sizes and the strides, in positions, of the axes that are indexed.
kernel void scatter_tuples(global const INDEX *restrict indices, global const X *restrict updates, global OUT *restrict out,
                           long units, long parts, long count, long positions, long depth, long width, long chunk, long step,
                           int how, global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long part = u % parts, low = part * positions / parts, high = (part + 1) * positions / parts;
        const long start = u / parts * chunk, columns = min(chunk, width - start);
        for (long r = 0; r < count; r++) {
            long place = 0;
            int inside = 1;
            for (long d = 0; d < depth; d++) {
                long index = (long)LOAD_INDEX(indices, r * depth + d);
                index += index < 0 ? table[d] : 0;
                inside &= index >= 0 && index < table[d];
                place += index * table[depth + d];
            }
            if (!inside || place < low || place >= high) continue;
            const long from = r * width + start, to = place * width + start;
            for (long i = 0; i < columns; i++)
                STORE_OUT(out, to + i, combined(how, (T)LOAD_OUT(out, to + i), (T)LOAD_X(updates, from + i)));
        }
    }
}
