// Tiles of ROWS x PANEL results in registers, for products and convolutions of one floating type on CPU devices.
// Source of the scheme: K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 34 (2008).
// Macros: V (vector of T), VLANES, ROWS, BIAS_ROW, BIAS_COLUMN, DIRECT, LINE (taps of a line of a
// kernel where the compiler is to know them, else taps_of_line).

#define PANEL (2 * VLANES)
typedef V __attribute__((aligned(sizeof(T)))) U;  // vload and vstore are slow on PoCL
#define AT(p) (*(global U *)(p))
#define RUN 256L  // products summed before they join the total: rounding errors grow with a run, not with the depth

// Rows of a matrix [rows, depth], from first_row and from column ``start`` on, as [count, ROWS]; what is beyond the last row repeats it
static inline void pack_rows(global const T *restrict a, global T *restrict packed, long first_row, long rows, long depth,
                             long start, long count) {
    long place[ROWS];
    for (int r = 0; r < ROWS; r++) place[r] = min(first_row + r, rows - 1) * depth + start;
    for (long k = 0; k < count; k++) {
        #pragma unroll
        for (int r = 0; r < ROWS; r++) packed[k * ROWS + r] = a[place[r] + k];
    }
}

#if !DIRECT

#if BIAS_ROW
#define OFFSET(r, j) ((V)(bias[r]))
#define ONE_OFFSET(r, j) (bias[r])
#elif BIAS_COLUMN
#define OFFSET(r, j) AT(bias + (j))
#define ONE_OFFSET(r, j) (bias[j])
#else
#define OFFSET(r, j) ((V)0)
#define ONE_OFFSET(r, j) ((T)0)
#endif

static inline void add_tile(global const T *restrict left, global const T *restrict right, long count,
#if BIAS_ROW || BIAS_COLUMN
                            global const T *restrict bias,
#endif
                            global T *restrict out, long width, int rows, int columns, int begins) {
    V sum[ROWS][2];
    #pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sum[r][0] = (V)0;
        sum[r][1] = (V)0;
    }
    global const V *vectors = (global const V *)right;
    for (long k = 0; k < count; k++) {
        const V first = vectors[2 * k], second = vectors[2 * k + 1];
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const V factor = (V)(left[k * ROWS + r]);
            sum[r][0] += factor * first;
            sum[r][1] += factor * second;
        }
    }
    if (rows == ROWS && columns == PANEL) {
        if (begins) {
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {
                AT(out + r * width) = sum[r][0] + OFFSET(r, 0);
                AT(out + r * width + VLANES) = sum[r][1] + OFFSET(r, VLANES);
            }
        } else {
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {
                AT(out + r * width) += sum[r][0];
                AT(out + r * width + VLANES) += sum[r][1];
            }
        }
        return;
    }
    V lines[ROWS][2];  // what comes now is a loop, and registers have no numbers
    #pragma unroll
    for (int r = 0; r < ROWS; r++) {
        lines[r][0] = sum[r][0];
        lines[r][1] = sum[r][1];
    }
    for (int r = 0; r < rows; r++) {
        global T *target = out + r * width;
        const T *line = (const T *)lines[r];
        for (int j = 0; j < columns; j++) target[j] = line[j] + (begins ? ONE_OFFSET(r, j) : target[j]);
    }
}

// offsets: for each batch, those of a and of b. A unit is (batch, block of columns, chunk of rows). Columns of b are packed
// ``block`` at a time, RUN deep, into the item's slot of scratch memory, which stays in the cache; behind them ROWS rows of a.
kernel void blocked_product(global const T *restrict a, global const T *restrict b,
#if BIAS_ROW || BIAS_COLUMN
                            global const T *restrict bias,
#endif
                            global T *restrict out, global T *restrict scratch,
                            long units, long rows, long depth, long width, long blocks, long block, long chunks, long chunk,
                            long slot_size, long step, global const long *restrict offsets) {
    const long begin_unit = get_global_id(0) * step, last = min(begin_unit + step, units);
    global T *restrict slot = scratch + get_global_id(0) * slot_size;
    for (long u = begin_unit; u < last; u++) {
        const long part = u % chunks, column = u / chunks % blocks * block, batch = u / chunks / blocks;
        const long stop = min((part + 1) * chunk, rows), end = min(column + block, width);
        global const T *left = a + offsets[2 * batch], *right = b + offsets[2 * batch + 1];
        global T *target = out + batch * rows * width;
        long k = 0;
        do {  // once where there is nothing to sum
            const long count = min(RUN, depth - k);
            global T *restrict packed = slot + count * ((end - column + PANEL - 1) / PANEL * PANEL);
            for (long j = column; j < end; j += PANEL) {
                global T *panel = slot + (j - column) * count;
                const int columns = (int)min((long)PANEL, end - j);
                for (long i = 0; i < count; i++) {
                    global const T *source = right + (k + i) * width + j;
                    if (columns == PANEL) {
                        AT(panel + i * PANEL) = AT(source);
                        AT(panel + i * PANEL + VLANES) = AT(source + VLANES);
                    } else {
                        for (int t = 0; t < PANEL; t++) panel[i * PANEL + t] = t < columns ? source[t] : 0;
                    }
                }
            }
            for (long m = part * chunk; m < stop; m += ROWS) {
                pack_rows(left, packed, m, rows, depth, k, count);
                for (long j = column; j < end; j += PANEL)
                    add_tile(packed, slot + (j - column) * count, count,
#if BIAS_ROW
                             bias + m,
#elif BIAS_COLUMN
                             bias + j,
#endif
                             target + m * width + j, width, (int)min((long)ROWS, stop - m), (int)min((long)PANEL, end - j),
                             k == 0);
            }
            k += RUN;
        } while (k < depth);
    }
}

#else

// Convolution with strides 1. The image is copied with its padding, so that a tap of the kernel is a shift of the whole image;
// results are computed along rows of that copy, and those beyond the right border are not stored.
// g: sizes of x, of the output and of the copy, padding before: three numbers each. offsets: the shift of the first tap of each line of the kernel.
#define SIZE(axis) g[axis]
#define PLACES(axis) g[3 + axis]
#define COPY(axis) g[6 + axis]
#define BEFORE(axis) g[9 + axis]

// A unit is a row of a plane of the copy
kernel void pad_image(global const T *restrict x, global T *restrict scratch, long units, long step,
                      global const long *restrict g) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long y = u % COPY(1) - BEFORE(1), z = u / COPY(1) % COPY(0) - BEFORE(0), plane = u / COPY(1) / COPY(0);
        global T *target = scratch + u * COPY(2);
        const int inside = y >= 0 && y < SIZE(1) && z >= 0 && z < SIZE(0);
        const long left = inside ? min(BEFORE(2), COPY(2)) : COPY(2), right = inside ? min(left + SIZE(2), COPY(2)) : COPY(2);
        global const T *source = x + ((plane * SIZE(0) + z) * SIZE(1) + y) * SIZE(2);
        for (long i = 0; i < left; i++) target[i] = 0;
        for (long i = left; i < right; i++) target[i] = source[i - left];
        for (long i = right; i < COPY(2); i++) target[i] = 0;
    }
}

// weight [groups, rows, depth] -> [groups, blocks of ROWS rows, depth, ROWS]. A unit is such a block.
kernel void pack_weights(global const T *restrict weight, global T *restrict packed, long units, long rows, long depth,
                         long behind, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units), blocks = (rows + ROWS - 1) / ROWS;
    for (long u = first; u < last; u++)
        pack_rows(weight + u / blocks * rows * depth, packed + behind + u * depth * ROWS, u % blocks * ROWS, rows, depth, 0,
                  depth);
}

// A unit is (image, group, panel of the copy). rows and channels are those of one group; weights are packed, from ``behind`` on.
kernel void direct_convolution(
#if BIAS_ROW
                               global const T *restrict bias,
#endif
                               global const T *restrict weights, global T *restrict out, global const T *restrict scratch,
                               long units, long groups, long panels, long rows, long channels, long lines, long taps_of_line,
                               long apart, long behind, long step, global const long *restrict g, global const long *restrict offsets) {
    const long begin_unit = get_global_id(0) * step, last = min(begin_unit + step, units);
    const long plane = COPY(0) * COPY(1) * COPY(2), places = PLACES(0) * PLACES(1) * PLACES(2);
    const long blocks = (rows + ROWS - 1) / ROWS, taps = lines * taps_of_line, depth = channels * taps;
    const long channels_of_run = max(1L, RUN / taps);
    for (long u = begin_unit; u < last; u++) {
        const long start = u % panels * PANEL, image = u / panels;  // image: [image, group]
        global const T *source = scratch + image * channels * plane + start;
        // which results of the panel there are: pieces of rows
        int from[PANEL], length[PANEL], pieces = 0;
        long place[PANEL];
        for (int j = 0; j < PANEL;) {
            const long q = start + j, c = q % COPY(2), y = q / COPY(2) % COPY(1), z = q / COPY(2) / COPY(1);
            const int rest = (int)min(COPY(2) - c, (long)(PANEL - j)), here = (int)min(PLACES(2) - c, (long)rest);
            if (here > 0 && y < PLACES(1) && z < PLACES(0)) {
                from[pieces] = j;
                length[pieces] = here;
                place[pieces++] = (z * PLACES(1) + y) * PLACES(2) + c;
            }
            j += rest;
        }
        for (long block = 0; block < blocks; block++) {
            global const T *left = weights + behind + (image % groups * blocks + block) * depth * ROWS;
            V total[ROWS][2];
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {
                total[r][0] = (V)0;
                total[r][1] = (V)0;
            }
            for (long run = 0; run < channels; run += channels_of_run) {
                V sum[ROWS][2];
                #pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    sum[r][0] = (V)0;
                    sum[r][1] = (V)0;
                }
                const long end = min(run + channels_of_run, channels);
                for (long channel = run; channel < end; channel++)
                    for (long line = 0; line < lines; line++) {
                        global const T *right = source + channel * plane + offsets[line];
                        global const T *factors = left + (channel * taps + line * taps_of_line) * ROWS;
                        for (long tap = 0; tap < LINE; tap++, right += apart, factors += ROWS) {
                            const V first = AT(right), second = AT(right + VLANES);
                            #pragma unroll
                            for (int r = 0; r < ROWS; r++) {
                                const V factor = (V)(factors[r]);
                                sum[r][0] += factor * first;
                                sum[r][1] += factor * second;
                            }
                        }
                    }
                #pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    total[r][0] += sum[r][0];
                    total[r][1] += sum[r][1];
                }
            }
            V lines[ROWS][2];
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {
                lines[r][0] = total[r][0];
                lines[r][1] = total[r][1];
            }
            const int here = (int)min((long)ROWS, rows - block * ROWS);
            for (int r = 0; r < here; r++) {
                const long row = image % groups * rows + block * ROWS + r;
#if BIAS_ROW
                const T offset = bias[row];
#else
                const T offset = 0;
#endif
                global T *target = out + (image / groups * groups * rows + row) * places;
                for (int piece = 0; piece < pieces; piece++) {
                    const T *line = (const T *)lines[r] + from[piece];
                    for (int i = 0; i < length[piece]; i++) target[place[piece] + i] = line[i] + offset;
                }
            }
        }
    }
}

#endif
