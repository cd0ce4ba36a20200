// Softmax and normalizations of rows. Statistics are summed in LANES partial sums, so that loops become vector code, and in
// blocks, so that long rows lose no digits.

#define LANES 16
#define BLOCK 512
#define COLUMNS 64

static inline T sum_of_lanes(const T *lane) {
    T total = 0;
    for (int l = 0; l < LANES; l++) total += lane[l];
    return total;
}

// Sum over i < length of TERM, an expression over i, in blocks
#define SUM_OVER(result, length, TERM)                                              \
    for (long block = 0; block < (length); block += BLOCK) {                        \
        const long end = min(block + BLOCK, (length));                              \
        T lane[LANES];                                                              \
        for (int l = 0; l < LANES; l++) lane[l] = 0;                                \
        long base = block;                                                          \
        for (; base + LANES <= end; base += LANES)                                  \
            for (int l = 0; l < LANES; l++) { const long i = base + l; lane[l] += (TERM); } \
        for (long i = base; i < end; i++) lane[0] += (TERM);                        \
        result += sum_of_lanes(lane);                                               \
    }

#if SOFTMAX
// [units, length]: softmax, or its logarithm with LOGARITHM
kernel void softmax_rows(global const X *restrict x, global OUT *restrict out, long units, long length, long width, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        global const X *row = x + u * length;
        global OUT *target = out + u * length;
        T lane[LANES];
        for (int l = 0; l < LANES; l++) lane[l] = -INFINITY;
        long base = 0;
        for (; base + LANES <= length; base += LANES)
            for (int l = 0; l < LANES; l++) lane[l] = greatest_of(lane[l], (T)LOAD_X(row, base + l));
        for (; base < length; base++) lane[0] = greatest_of(lane[0], (T)LOAD_X(row, base));
        T top = lane[0], total = 0;
        for (int l = 1; l < LANES; l++) top = greatest_of(top, lane[l]);
        SUM_OVER(total, length, exponential((T)LOAD_X(row, i) - top))
#if LOGARITHM
        const T shift = logarithm(total);
        for (long i = 0; i < length; i++) STORE_OUT(target, i, ((T)LOAD_X(row, i) - top) - shift);
#else
        const T factor = 1 / total;
        for (long i = 0; i < length; i++) STORE_OUT(target, i, exponential((T)LOAD_X(row, i) - top) * factor);
#endif
    }
}

// [outer, length, width] along length, up to COLUMNS columns at a time
kernel void softmax_columns(global const X *restrict x, global OUT *restrict out, long units, long length, long width, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long blocks = (width + COLUMNS - 1) / COLUMNS;
    for (long u = first; u < last; u++) {
        const long column = u % blocks * COLUMNS, start = u / blocks * length * width + column;
        const int columns = (int)min((long)COLUMNS, width - column);
        T top[COLUMNS], total[COLUMNS];
        for (int j = 0; j < columns; j++) { top[j] = -INFINITY; total[j] = 0; }
        for (long r = 0; r < length; r++)
            for (int j = 0; j < columns; j++) top[j] = greatest_of(top[j], (T)LOAD_X(x, start + r * width + j));
        for (long r = 0; r < length; r++)
            for (int j = 0; j < columns; j++) total[j] += exponential((T)LOAD_X(x, start + r * width + j) - top[j]);
        for (int j = 0; j < columns; j++) total[j] = LOGARITHM ? logarithm(total[j]) : 1 / total[j];
        for (long r = 0; r < length; r++)
            for (int j = 0; j < columns; j++) {
                const long i = start + r * width + j;
                const T below = (T)LOAD_X(x, i) - top[j];
                STORE_OUT(out, i, LOGARITHM ? below - total[j] : exponential(below) * total[j]);
            }
    }
}
#endif

#if NORMALIZATION
// [units, length]: (x - mean) / sqrt(variance + epsilon), with CENTERED; else x / sqrt(mean(x * x) + epsilon).
// Parameters, with HAS_SCALE and HAS_BIAS: one for each run of ``area`` elements, and row u begins at parameter
// u % groups * (length / area). With area 1 every element has its own.
kernel void normalize_rows(global const X *restrict x,
#if HAS_SCALE
                           global const SCALE *restrict scale,
#endif
#if HAS_BIAS
                           global const BIAS *restrict bias,
#endif
                           global OUT *restrict out,
                           long units, long length, long groups, long area, long step, T epsilon) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long runs = length / area;
    for (long u = first; u < last; u++) {
        global const X *row = x + u * length;
        global OUT *target = out + u * length;
        T mean = 0, square = 0;
#if CENTERED
        SUM_OVER(mean, length, (T)LOAD_X(row, i))
        mean = mean / (T)length;
#endif
        SUM_OVER(square, length, ((T)LOAD_X(row, i) - mean) * ((T)LOAD_X(row, i) - mean))
        const T factor = 1 / sqrt(square / (T)length + epsilon);
        const long parameter = u % groups * runs;
#if HAS_SCALE
#define SCALE_AT(i) ((T)LOAD_SCALE(scale, parameter + (i)))
#else
#define SCALE_AT(i) ((T)1)
#endif
#if HAS_BIAS
#define BIAS_AT(i) ((T)LOAD_BIAS(bias, parameter + (i)))
#else
#define BIAS_AT(i) ((T)0)
#endif
#if PER_ELEMENT
        for (long i = 0; i < length; i++)
            STORE_OUT(target, i, ((T)LOAD_X(row, i) - mean) * factor * SCALE_AT(i) + BIAS_AT(i));
#else
        for (long run = 0; run < runs; run++) {
            const T own_factor = factor * SCALE_AT(run), own_offset = BIAS_AT(run);
            for (long i = run * area; i < (run + 1) * area; i++)
                STORE_OUT(target, i, ((T)LOAD_X(row, i) - mean) * own_factor + own_offset);
        }
#endif
    }
}
#endif

#if BATCH
// [units = batch * channels, length] with given statistics of each channel
kernel void normalize_channels(global const X *restrict x, global const SCALE *restrict scale, global const BIAS *restrict bias,
                               global const MEAN *restrict mean, global const VARIANCE *restrict variance,
                               global OUT *restrict out, long units, long length, long channels, long step, T epsilon) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long c = u % channels;
        const T factor = (T)LOAD_SCALE(scale, c) / sqrt((T)LOAD_VARIANCE(variance, c) + epsilon);
        const T centre = (T)LOAD_MEAN(mean, c), offset = (T)LOAD_BIAS(bias, c);
        for (long i = u * length; i < (u + 1) * length; i++) STORE_OUT(out, i, ((T)LOAD_X(x, i) - centre) * factor + offset);
    }
}
#endif
