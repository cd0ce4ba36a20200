// Reductions of [outer, length, width] over length. Macros: START, MAP(v) of an element, COMBINE(a, b), FINISH(v, count),
// COMPENSATED (sums of floating numbers keep what each block's addition has lost: W. Kahan, CACM 8 (1965)).
// A long axis is cut into chunks, each of which is one element of the output; a second launch reduces those.

#define BLOCK 512
#define LANES 16
#define COLUMNS 64

static inline void NAME(add_block)(T block, T *total, T *lost) {
#if COMPENSATED
    const T corrected = block - *lost, sum = *total + corrected;
    *lost = fabs(sum) < INFINITY ? (sum - *total) - corrected : 0;
    *total = sum;
#else
    *total = COMBINE(*total, block);
#endif
}

// width == 1: elements that are reduced lie next to each other
kernel void NAME(reduce_rows)(global const X *restrict x, global OUT *restrict out,
                        long units, long length, long width, long chunks, long chunk, long step, long count) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        global const X *row = x + u / chunks * length;
        const long start = u % chunks * chunk, stop = min(start + chunk, length);
        T total = START, lost = 0;
        for (long block = start; block < stop; block += BLOCK) {
            const long end = min(block + BLOCK, stop);
            T lane[LANES];
            for (int l = 0; l < LANES; l++) lane[l] = START;
            long i = block;
            for (; i + LANES <= end; i += LANES)
                for (int l = 0; l < LANES; l++) lane[l] = COMBINE(lane[l], MAP(LOAD_X(row, i + l)));
            for (; i < end; i++) lane[0] = COMBINE(lane[0], MAP(LOAD_X(row, i)));
            for (int half_lanes = LANES / 2; half_lanes > 0; half_lanes /= 2)
                for (int l = 0; l < half_lanes; l++) lane[l] = COMBINE(lane[l], lane[l + half_lanes]);
            NAME(add_block)(lane[0], &total, &lost);
        }
        STORE_OUT(out, u, FINISH(total, count));
    }
}

// width > 1: up to COLUMNS columns at a time, row by row
kernel void NAME(reduce_columns)(global const X *restrict x, global OUT *restrict out,
                           long units, long length, long width, long chunks, long chunk, long step, long count) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long blocks = (width + COLUMNS - 1) / COLUMNS;
    for (long u = first; u < last; u++) {
        const long column = u % blocks * COLUMNS, part = u / blocks;  // part numbers [outer, chunks]
        const long start = part % chunks * chunk, stop = min(start + chunk, length);
        const int columns = (int)min((long)COLUMNS, width - column);
        global const X *top = x + part / chunks * length * width + column;
        T total[COLUMNS], lost[COLUMNS], sum[COLUMNS];
        for (int j = 0; j < columns; j++) { total[j] = START; lost[j] = 0; }
        for (long block = start; block < stop; block += LANES) {
            const long end = min(block + LANES, stop);
            for (int j = 0; j < columns; j++) sum[j] = START;
            for (long r = block; r < end; r++)
                for (int j = 0; j < columns; j++) sum[j] = COMBINE(sum[j], MAP(LOAD_X(top, r * width + j)));
            for (int j = 0; j < columns; j++) NAME(add_block)(sum[j], &total[j], &lost[j]);
        }
        for (int j = 0; j < columns; j++) STORE_OUT(out, part * width + column + j, FINISH(total[j], count));
    }
}
