// Softmax and normalizations of rows of float32 on CPU devices, in vectors and with four sums at a time: one sum would wait for
// itself. Sums are made in blocks, so that long rows lose no digits. Macros: V, VLANES, INTEGERS (of as many lanes), and those
// of rows.cl.

#define BLOCK 512
typedef V __attribute__((aligned(sizeof(T)))) U;
#define AT(p) (*(global U *)(p))
#define GIVEN(p) (*(global const U *)(p))
#define AS_INTEGERS_(x, lanes) as_int##lanes(x)
#define AS_INTEGERS(x, lanes) AS_INTEGERS_(x, lanes)
#define AS_FLOATS_(x, lanes) as_float##lanes(x)
#define AS_FLOATS(x, lanes) AS_FLOATS_(x, lanes)

// The last elements of a row, fewer than VLANES, and ``fill``
static inline V load_some(global const T *row, long count, T fill) {
    T found[VLANES];
    for (int l = 0; l < VLANES; l++) found[l] = l < count ? row[l] : fill;
    return *(const U *)found;
}

static inline void store_some(V values, global T *row, long count) {
    T found[VLANES];
    *(U *)found = values;
    for (int l = 0; l < count; l++) row[l] = found[l];
}

static inline T sum_of(V values) {
    T found[VLANES], total = 0;
    *(U *)found = values;
    for (int l = 0; l < VLANES; l++) total += found[l];
    return total;
}

// As exponential(x) of functions.cl, for x <= 0; what is less than the least normal number is 0
static inline V exponentials(V x) {
    const V shift = (V)12582912.0f, shifted = x * (V)1.44269504f + shift, whole = shifted - shift;
    const V r = (x - whole * (V)0.693359375f) + whole * (V)2.12194440e-4f;
    V p = (V)1.395060030e-3f;
    p = p * r + (V)8.368953708e-3f;
    p = p * r + (V)4.166620417e-2f;
    p = p * r + (V)1.666651830e-1f;
    p = p * r + (V)5.000000096e-1f;
    p = p * r * r + r + (V)1.0f;
    const INTEGERS scale = (AS_INTEGERS(shifted, VLANES) << 23) + 0x3f800000;  // the low bits of shifted are a whole number
    const V result = p * AS_FLOATS(scale, VLANES);
    return x < (V)-87.3f ? (V)0 : result;
}

// result += sum over i of TERM(elements from i on); EACH(i, terms) keeps them, EACH_OF(i, count, terms) those of the rest
#define SUM_OVER(result, row, length, fill, TERM, EACH, EACH_OF)                         \
    for (long block = 0; block < (length); block += BLOCK) {                             \
        const long end = min(block + BLOCK, (length));                                   \
        V sum[4];                                                                        \
        for (int j = 0; j < 4; j++) sum[j] = (V)0;                                       \
        long i = block;                                                                  \
        for (; i + 4 * VLANES <= end; i += 4 * VLANES)                                   \
            _Pragma("unroll") for (int j = 0; j < 4; j++) {                              \
                const V terms = TERM(GIVEN((row) + i + j * VLANES));                     \
                EACH(i + j * VLANES, terms);                                             \
                sum[j] += terms;                                                         \
            }                                                                            \
        for (; i + VLANES <= end; i += VLANES) {                                         \
            const V terms = TERM(GIVEN((row) + i));                                      \
            EACH(i, terms);                                                              \
            sum[0] += terms;                                                             \
        }                                                                                \
        if (i < end) {                                                                   \
            const V terms = TERM(load_some((row) + i, end - i, fill));                   \
            EACH_OF(i, end - i, terms);                                                  \
            sum[0] += terms;                                                             \
        }                                                                                \
        result += sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));                         \
    }
#define NOTHING(i, terms)
#define NOTHING_OF(i, count, terms)

#if SOFTMAX
static inline T greatest(global const T *restrict row, long length) {
    V top[4];
    for (int j = 0; j < 4; j++) top[j] = (V)-INFINITY;  // NaN is passed over here: it will be in the sum
    long i = 0;
    for (; i + 4 * VLANES <= length; i += 4 * VLANES)
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const V next = GIVEN(row + i + j * VLANES);
            top[j] = next > top[j] ? next : top[j];
        }
    T lanes[4 * VLANES], result = -INFINITY;
    #pragma unroll
    for (int j = 0; j < 4; j++) ((U *)lanes)[j] = top[j];
    for (int l = 0; l < 4 * VLANES; l++) result = lanes[l] > result ? lanes[l] : result;
    for (; i < length; i++) result = row[i] > result ? row[i] : result;
    return result;
}

// [units, length]: softmax, or its logarithm with LOGARITHM
kernel void softmax_rows(global const X *restrict x, global OUT *restrict out, long units, long length, long width, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        global const T *row = x + u * length;
        READ_AHEAD(row, min(length, 2048L));
        global T *target = out + u * length;
        const T top = greatest(row, length);
        T total = 0;
#define POWER(v) exponentials((v) - (V)top)
#if LOGARITHM
        SUM_OVER(total, row, length, -INFINITY, POWER, NOTHING, NOTHING_OF)
        const T shift = logarithm(total);
#define RESULT(i, v) (((v) - (V)top) - (V)shift)
        global const T *source = row;
#else
#define KEEP(i, terms) AT(target + (i)) = terms
#define KEEP_OF(i, count, terms) store_some(terms, target + (i), count)
        SUM_OVER(total, row, length, -INFINITY, POWER, KEEP, KEEP_OF)
        const T factor = 1 / total;
#define RESULT(i, v) ((v) * (V)factor)
        global const T *source = target;
#endif
        long i = 0;
        for (; i + VLANES <= length; i += VLANES) AT(target + i) = RESULT(i, GIVEN(source + i));
        if (i < length) store_some(RESULT(i, load_some(source + i, length - i, 0)), target + i, length - i);
    }
}
#endif

#if NORMALIZATION
// [units, length]: (x - mean) / sqrt(variance + epsilon), with CENTERED; else x / sqrt(mean(x * x) + epsilon).
// Parameters, with HAS_SCALE and HAS_BIAS, are those of one row.
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
    for (long u = first; u < last; u++) {
        global const T *row = x + u * length;
        READ_AHEAD(row, min(length, 2048L));
        global T *target = out + u * length;
        T mean = 0, square = 0;
#define SAME(v) (v)
#define SQUARE(v) (((v) - (V)mean) * ((v) - (V)mean))
#if CENTERED
        SUM_OVER(mean, row, length, 0, SAME, NOTHING, NOTHING_OF)
        mean = mean / (T)length;
#endif
        SUM_OVER(square, row, length, mean, SQUARE, NOTHING, NOTHING_OF)
        const T factor = 1 / sqrt(square / (T)length + epsilon);
#if HAS_SCALE
#define SCALED(i, v) * (v)
#else
#define SCALED(i, v)
#endif
#if HAS_BIAS
#define MOVED(i, v) + (v)
#else
#define MOVED(i, v)
#endif
        long i = 0;
        for (; i + VLANES <= length; i += VLANES)
            AT(target + i) = (GIVEN(row + i) - (V)mean) * (V)factor SCALED(i, GIVEN(scale + i)) MOVED(i, GIVEN(bias + i));
        for (; i < length; i++) target[i] = (row[i] - mean) * factor SCALED(i, scale[i]) MOVED(i, bias[i]);
    }
}
#endif
