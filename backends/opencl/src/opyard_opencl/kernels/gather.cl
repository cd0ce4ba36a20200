// Reading by position. Macro: U, a type of the size of an element. INDEX is the type of the indices.

// [outer, size, width] at indices [count] -> [outer, count, width]. A position out of range gives elements of all one bits,
// which are NaN for floating dtypes and -1 for signed integers: a device cannot raise.
kernel void gather(global const U *restrict x, global const INDEX *restrict indices, global U *restrict out,
                   long units, long size, long count, long width, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        long place = (long)LOAD_INDEX(indices, u % count);
        place += place < 0 ? size : 0;
        global U *target = out + u * width;
        if (place < 0 || place >= size) {
            for (long i = 0; i < width; i++) target[i] = (U)-1;
        } else {
            global const U *source = x + (u / count * size + place) * width;
            for (long i = 0; i < width; i++) target[i] = source[i];
        }
    }
}

// indices [outer, width] -> [outer, depth, width]
kernel void one_hot(global const INDEX *restrict indices, global U *restrict out,
                    long units, long depth, long width, long step, U on, U off) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long outer = u / depth, level = u % depth;
        for (long i = 0; i < width; i++) {
            long place = (long)LOAD_INDEX(indices, outer * width + i);
            place += place < 0 ? depth : 0;
            out[u * width + i] = place == level ? on : off;
        }
    }
}

// Index tuples [batches, count, depth] of parts of x [batches, *sizes, width]: [batches * count, width]; area is the size
// of a batch of x. table: the sizes and the strides of the axes that are indexed.
kernel void gather_tuples(global const U *restrict x, global const INDEX *restrict indices, global U *restrict out,
                          long units, long count, long area, long depth, long width, long step,
                          global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        long from = u / count * area;
        int inside = 1;
        for (long d = 0; d < depth; d++) {
            long place = (long)LOAD_INDEX(indices, u * depth + d);
            place += place < 0 ? table[d] : 0;
            inside &= place >= 0 && place < table[d];
            from += place * table[depth + d];
        }
        global U *target = out + u * width;
        if (inside)
            for (long i = 0; i < width; i++) target[i] = x[from + i];
        else
            for (long i = 0; i < width; i++) target[i] = (U)-1;
    }
}

// rows of width elements of the output. Each is read at its index along an axis of x of this size and stride.
// table: for each axis of the rows its size, its stride in indices, and its stride in x
kernel void take_along(global const U *restrict x, global const INDEX *restrict indices, global U *restrict out,
                       long rows, long width, long index_step, long x_step, long size, long stride, long step, int rank,
                       global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    for (long r = first; r < last; r++) {
        long rest = r, index = 0, from = 0;
        for (int axis = rank - 1; axis >= 0; axis--) {
            const long number = rest % table[axis];
            rest /= table[axis];
            index += number * table[rank + axis];
            from += number * table[2 * rank + axis];
        }
        for (long i = 0; i < width; i++) {
            long place = (long)LOAD_INDEX(indices, index + i * index_step);
            place += place < 0 ? size : 0;
            const int inside = place >= 0 && place < size;
            out[r * width + i] = inside ? x[from + i * x_step + place * stride] : (U)-1;
        }
    }
}
