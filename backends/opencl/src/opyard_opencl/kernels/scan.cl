// Sums up to each element of [outer, length, width] along length. A long axis is cut into chunks, whose sums are found first.
// Sums of floating numbers keep what each addition has lost: W. Kahan, CACM 8 (1965).

#define COLUMNS 64

static inline void add(T value, T *total, T *lost) {
#if T_FLOATING
    const T corrected = value - *lost, sum = *total + corrected;
    *lost = fabs(sum) < INFINITY ? (sum - *total) - corrected : 0;
    *total = sum;
#else
    *total = (T)(*total + value);
#endif
}

// A unit is (outer, chunk, block of columns); sums [outer, chunks, width]
#define FOR_UNITS                                                                                            \
    const long first = get_global_id(0) * step, last = min(first + step, units);                             \
    const long blocks = (width + COLUMNS - 1) / COLUMNS;                                                     \
    for (long u = first; u < last; u++) {                                                                    \
        const long column = u % blocks * COLUMNS, part = u / blocks % chunks, outer = u / blocks / chunks;   \
        const int columns = (int)min((long)COLUMNS, width - column);                                         \
        const long start = part * chunk, stop = min(start + chunk, length);                                  \
        const long base = outer * length * width + column;                                                   \
        T total[COLUMNS], lost[COLUMNS];                                                                     \
        for (int j = 0; j < columns; j++) { total[j] = 0; lost[j] = 0; }

// places are counted from the end of the axis if ``reverse``
#define PLACE(r) (base + (reverse ? length - 1 - (r) : (r)) * width)

kernel void sum_chunks(global const X *restrict x, global T *restrict sums, long units, long length, long width,
                       long chunks, long chunk, long step, int reverse) {
    FOR_UNITS
        for (long r = start; r < stop; r++)
            for (int j = 0; j < columns; j++) add((T)LOAD_X(x, PLACE(r) + j), &total[j], &lost[j]);
        for (int j = 0; j < columns; j++) sums[(outer * chunks + part) * width + column + j] = total[j];
    }
}

kernel void scan(global const X *restrict x, global OUT *restrict out, global const T *restrict sums, long units,
                 long length, long width, long chunks, long chunk, long step, int reverse, int exclusive) {
    FOR_UNITS
        for (long before = 0; before < part; before++)
            for (int j = 0; j < columns; j++)
                add(sums[(outer * chunks + before) * width + column + j], &total[j], &lost[j]);
        for (long r = start; r < stop; r++)
            for (int j = 0; j < columns; j++) {
                const T value = (T)LOAD_X(x, PLACE(r) + j);
                if (exclusive) STORE_OUT(out, PLACE(r) + j, total[j]);
                add(value, &total[j], &lost[j]);
                if (!exclusive) STORE_OUT(out, PLACE(r) + j, total[j]);
            }
    }
}
