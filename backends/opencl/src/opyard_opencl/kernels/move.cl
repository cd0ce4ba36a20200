// Copies of elements of U, a type of their size. Macro: U.

// rows of width elements; table: for each axis of the rows its size, its stride in x, and its stride in out
kernel void move(global const U *restrict x, global U *restrict out, long rows, long width, long x_step, long out_step,
                 long x_offset, long out_offset, long step, int rank, global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    for (long r = first; r < last; r++) {
        long rest = r, from = x_offset, to = out_offset;
        for (int axis = rank - 1; axis >= 0; axis--) {
            const long index = rest % table[axis];
            rest /= table[axis];
            from += index * table[rank + axis];
            to += index * table[2 * rank + axis];
        }
        if (x_step == 1 && out_step == 1)
            for (long i = 0; i < width; i++) out[to + i] = x[from + i];
        else if (x_step == 0 && out_step == 1)
            for (long i = 0; i < width; i++) out[to + i] = x[from];
        else
            for (long i = 0; i < width; i++) out[to + i * out_step] = x[from + i * x_step];
    }
}

kernel void fill(global U *restrict out, long count, long step, U value) {
    const long first = get_global_id(0) * step, last = min(first + step, count);
    for (long i = first; i < last; i++) out[i] = value;
}

// rows of the output; table: the sizes of its rank axes, where the entries of each axis begin in the table, and those
// entries: for each place along the axis what it adds to the place in x
kernel void pick(global const U *restrict x, global U *restrict out, long rows, long width, long step, int rank,
                 global const long *restrict table) {
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    global const long *places = table + table[2 * rank - 1];
    for (long r = first; r < last; r++) {
        long rest = r, from = 0;
        for (int axis = rank - 2; axis >= 0; axis--) {
            from += table[table[rank + axis] + rest % table[axis]];
            rest /= table[axis];
        }
        for (long i = 0; i < width; i++) out[r * width + i] = x[from + places[i]];
    }
}

// rows of matrices [height, width]: zeros where column - row is above k, or below it if ``upper``
kernel void triangle(global const U *restrict x, global U *restrict out, long rows, long height, long width, long k,
                     long step, int upper) {
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    for (long r = first; r < last; r++) {
        const long diagonal = r % height + k;
        for (long i = 0; i < width; i++) {
            const int keep = upper ? i >= diagonal : i <= diagonal;
            out[r * width + i] = keep ? x[r * width + i] : 0;
        }
    }
}
