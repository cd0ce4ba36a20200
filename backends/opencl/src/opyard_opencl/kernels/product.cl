// Matrix products by register tiles of ROWS x PANEL: the columns of the right operand are packed, PANEL at a time, into a
// slot of scratch memory that stays in the cache, then multiplied with all rows of the left one.
// Source of the scheme: K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 34 (2008).
// Macros: V (vector of T), VLANES, VSTORE, BIAS_ROW, BIAS_COLUMN, CONVOLUTION, TRANSPOSED.

#define PANEL (2 * VLANES)
#define ROWS 6
#define RUN 256L  // products summed before they join the total: rounding errors grow with a run, not with the depth

#if TRANSPOSED
#define PLACE(j) place_of[j]
#else
#define PLACE(j) (j)
#endif

// out[m, PLACE(j)] = sum over k of a[m, k] * panel[k, j], for m in [first_row, last_row) and j < columns
static inline void multiply(global const A *restrict a, global const T *restrict panel, global OUT *restrict out,
#if BIAS_ROW || BIAS_COLUMN
                            global const BIAS *restrict bias,
#endif
#if TRANSPOSED
                            const long *place_of,
#endif
                            long first_row, long last_row, long depth, long out_width, int columns) {
    global const V *vectors = (global const V *)panel;
    for (long m = first_row; m < last_row; m += ROWS) {
        V total[ROWS][2];
        long row[ROWS];
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            total[i][0] = (V)0;
            total[i][1] = (V)0;
            row[i] = min(m + i, last_row - 1) * depth;  // rows beyond the last repeat it, and are not stored
        }
        for (long start = 0; start < depth; start += RUN) {
            const long end = min(start + RUN, depth);
            V sum[ROWS][2];
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                sum[i][0] = (V)0;
                sum[i][1] = (V)0;
            }
            for (long k = start; k < end; k++) {
                const V left = vectors[2 * k], right = vectors[2 * k + 1];
                #pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const V factor = (V)((T)LOAD_A(a, row[i] + k));
                    sum[i][0] += factor * left;
                    sum[i][1] += factor * right;
                }
            }
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                total[i][0] += sum[i][0];
                total[i][1] += sum[i][1];
            }
        }
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            T line[PANEL];
            VSTORE(total[i][0], 0, line);
            VSTORE(total[i][1], 1, line);
            if (m + i < last_row) {
                global OUT *target = out + (m + i) * out_width;
                for (int j = 0; j < columns; j++) {
#if BIAS_ROW
                    STORE_OUT(target, PLACE(j), line[j] + (T)LOAD_BIAS(bias, m + i));
#elif BIAS_COLUMN
                    STORE_OUT(target, PLACE(j), line[j] + (T)LOAD_BIAS(bias, j));
#else
                    STORE_OUT(target, PLACE(j), line[j]);
#endif
                }
            }
        }
    }
}

#if !CONVOLUTION && !TRANSPOSED

// offsets: for each batch, those of a and of b. A unit is (batch, panel, chunk of rows).
kernel void product(global const A *restrict a, global const B *restrict b,
#if BIAS_COLUMN
                    global const BIAS *restrict bias,
#endif
                    global OUT *restrict out, global T *scratch,
                    long units, long rows, long depth, long width, long chunks, long chunk, long step,
                    global const long *restrict offsets) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long panels = (width + PANEL - 1) / PANEL;
    global T *slot = scratch + get_global_id(0) * depth * PANEL;
    for (long u = first, packed = -1; u < last; u++) {
        const long part = u % chunks, panel = u / chunks % panels, batch = u / chunks / panels;
        const long column = panel * PANEL;
        const int columns = (int)min((long)PANEL, width - column);
        if (packed != u / chunks) {
            global const B *source = b + offsets[2 * batch + 1] + column;
            for (long k = 0; k < depth; k++) {
                for (int j = 0; j < columns; j++) slot[k * PANEL + j] = (T)LOAD_B(source, k * width + j);
                for (int j = columns; j < PANEL; j++) slot[k * PANEL + j] = 0;
            }
            packed = u / chunks;
        }
        multiply(a + offsets[2 * batch], slot, out + batch * rows * width + column,
#if BIAS_COLUMN
                 bias + column,
#endif
                 part * chunk, min((part + 1) * chunk, rows), depth, width, columns);
    }
}

#endif

#if CONVOLUTION

// Convolution as a product of weights [out, taps] with a matrix [taps, places] that is never stored as a whole.
// g: sizes of x, out and kernel, strides, padding before, dilations: three numbers each.
#define SIZE(axis) g[axis]
#define PLACES(axis) g[3 + axis]
#define KERNEL(axis) g[6 + axis]
#define STRIDE(axis) g[9 + axis]
#define BEFORE(axis) g[12 + axis]
#define DILATION(axis) g[15 + axis]

static inline void pack_patches(global const B *restrict x, global T *restrict slot, global const long *restrict g,
                                long channels, long place, int columns) {
    long z[PANEL], y[PANEL], c[PANEL];
    for (int j = 0; j < PANEL; j++) {
        const long p = place + min(j, columns - 1), plane = PLACES(1) * PLACES(2);
        z[j] = p / plane * STRIDE(0) - BEFORE(0);
        y[j] = p % plane / PLACES(2) * STRIDE(1) - BEFORE(1);
        c[j] = p % PLACES(2) * STRIDE(2) - BEFORE(2);
    }
    const long area = SIZE(1) * SIZE(2), volume = SIZE(0) * area, taps = KERNEL(0) * KERNEL(1) * KERNEL(2);
    long tap = 0;
    for (long kz = 0; kz < KERNEL(0); kz++)
        for (long ky = 0; ky < KERNEL(1); ky++)
            for (long kx = 0; kx < KERNEL(2); kx++, tap++) {
                int offset[PANEL], inside[PANEL], plain = 1;
                for (int j = 0; j < PANEL; j++) {
                    const long dz = z[j] + kz * DILATION(0), dy = y[j] + ky * DILATION(1), dx = c[j] + kx * DILATION(2);
                    inside[j] = dz >= 0 && dz < SIZE(0) && dy >= 0 && dy < SIZE(1) && dx >= 0 && dx < SIZE(2);
                    offset[j] = inside[j] ? (int)(dz * area + dy * SIZE(2) + dx) : 0;
                    plain &= inside[j] & (offset[j] == offset[0] + j);
                }
                if (plain) {
                    for (long channel = 0; channel < channels; channel++) {
                        global const B *source = x + channel * volume + offset[0];
                        global T *row = slot + (channel * taps + tap) * PANEL;
                        for (int j = 0; j < PANEL; j++) row[j] = (T)LOAD_B(source, j);
                    }
                } else {
                    for (long channel = 0; channel < channels; channel++) {
                        global const B *source = x + channel * volume;
                        global T *row = slot + (channel * taps + tap) * PANEL;
                        for (int j = 0; j < PANEL; j++) row[j] = inside[j] ? (T)LOAD_B(source, offset[j]) : (T)0;
                    }
                }
            }
}

// A unit is (image, group, panel of places). rows and channels are those of one group.
kernel void convolve(global const B *restrict x, global const A *restrict weight,
#if BIAS_ROW
                     global const BIAS *restrict bias,
#endif
                     global OUT *restrict out, global T *scratch,
                     long units, long groups, long rows, long channels, long step, global const long *restrict g) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long places = PLACES(0) * PLACES(1) * PLACES(2), panels = (places + PANEL - 1) / PANEL;
    const long depth = channels * KERNEL(0) * KERNEL(1) * KERNEL(2), volume = SIZE(0) * SIZE(1) * SIZE(2);
    global T *slot = scratch + get_global_id(0) * depth * PANEL;
    for (long u = first; u < last; u++) {
        const long place = u % panels * PANEL, block = u / panels, group = block % groups;  // block: [image, group]
        const int columns = (int)min((long)PANEL, places - place);
        pack_patches(x + block * channels * volume, slot, g, channels, place, columns);
        multiply(weight + group * rows * depth, slot, out + block * rows * places + place,
#if BIAS_ROW
                 bias + group * rows,
#endif
                 0, rows, depth, places, columns);
    }
}

#endif

#if TRANSPOSED

// Transposed convolution. Output places with equal remainders by the strides are a phase: each tap of the kernel reaches one
// phase alone, and a phase is a convolution of x with stride 1 by its own taps.
// g: sizes of x, of the output, and strides: three numbers each.
// phases: for each the number of its first panel, its places and its first place (three numbers each), first tap and taps.
// taps, in the order of phases: for each its number in the kernel, first tap and taps of its phase, and the shift to x.
#define SIZE(axis) g[axis]
#define RESULT(axis) g[3 + axis]
#define STRIDE(axis) g[6 + axis]
#define PHASE_FACTS 9
#define TAP_FACTS 6

// weight [groups, channels, rows, taps] -> for each group and phase [rows, channels, taps of the phase]
kernel void arrange(global const W *restrict weight, global T *restrict scratch, long units, long rows, long channels,
                    long count, long step, global const long *restrict taps) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long row = u % rows, channel = u / rows % channels, group = u / rows / channels;
        global T *target = scratch + group * rows * channels * count;
        for (long i = 0; i < count; i++) {
            global const long *tap = taps + i * TAP_FACTS;
            const long place = rows * channels * tap[1] + (row * channels + channel) * tap[2] + i - tap[1];
            target[place] = (T)LOAD_W(weight, u * count + tap[0]);
        }
    }
}

// Whether elements beyond the borders of x, which are packed as zeros, are among those packed
static inline int pack_shifted(global const B *restrict x, global T *restrict slot, global const long *restrict g,
                                global const long *restrict taps, long count, long channels, const long *z, const long *y,
                                const long *c) {
    const long area = SIZE(1) * SIZE(2), volume = SIZE(0) * area;
    int beyond = 0;
    for (long i = 0; i < count; i++) {
        global const long *shift = taps + i * TAP_FACTS + 3;
        int offset[PANEL], inside[PANEL], plain = 1;
        for (int j = 0; j < PANEL; j++) {
            const long dz = z[j] + shift[0], dy = y[j] + shift[1], dx = c[j] + shift[2];
            inside[j] = dz >= 0 && dz < SIZE(0) && dy >= 0 && dy < SIZE(1) && dx >= 0 && dx < SIZE(2);
            offset[j] = inside[j] ? (int)(dz * area + dy * SIZE(2) + dx) : 0;
            plain &= inside[j] & (offset[j] == offset[0] + j);
            beyond |= !inside[j];
        }
        for (long channel = 0; channel < channels; channel++) {
            global const B *source = x + channel * volume;
            global T *row = slot + (channel * count + i) * PANEL;
            if (plain)
                for (int j = 0; j < PANEL; j++) row[j] = (T)LOAD_B(source + offset[0], j);
            else
                for (int j = 0; j < PANEL; j++) row[j] = inside[j] ? (T)LOAD_B(source, offset[j]) : (T)0;
        }
    }
    return beyond;
}

// One element of the output from those of x that there are: zeros beyond the borders times an infinite weight would be NaN
static inline T element(global const B *restrict x, global const T *restrict weight, global const long *restrict g,
                        global const long *restrict taps, long count, long channels, long z, long y, long c) {
    T total = 0;
    for (long i = 0; i < count; i++) {
        global const long *shift = taps + i * TAP_FACTS + 3;
        const long dz = z + shift[0], dy = y + shift[1], dx = c + shift[2];
        if (dz < 0 || dz >= SIZE(0) || dy < 0 || dy >= SIZE(1) || dx < 0 || dx >= SIZE(2)) continue;
        for (long channel = 0; channel < channels; channel++) {
            const long place = ((channel * SIZE(0) + dz) * SIZE(1) + dy) * SIZE(2) + dx;
            total += weight[channel * count + i] * (T)LOAD_B(x, place);
        }
    }
    return total;
}

// A unit is (image, group, panel of a phase). rows and channels are those of one group; slots lie behind the weights in scratch.
kernel void convolve_transposed(global const B *restrict x,
#if BIAS_ROW
                                global const BIAS *restrict bias,
#endif
                                global OUT *restrict out, global T *scratch,
                                long units, long groups, long panels, long rows, long channels, long count, long behind,
                                long slot_size, long step, global const long *restrict g,
                                global const long *restrict phases, global const long *restrict taps) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long volume = SIZE(0) * SIZE(1) * SIZE(2), places = RESULT(0) * RESULT(1) * RESULT(2);
    global T *slot = scratch + behind + get_global_id(0) * slot_size;
    for (long u = first; u < last; u++) {
        const long panel = u % panels, block = u / panels, group = block % groups;  // block: [image, group]
        global const long *phase = phases;
        while (phase[PHASE_FACTS] <= panel) phase += PHASE_FACTS;  // behind the last one stands the number of panels
        const long start = (panel - phase[0]) * PANEL, size = phase[1] * phase[2] * phase[3];
        const int columns = (int)min((long)PANEL, size - start);
        long z[PANEL], y[PANEL], c[PANEL], place_of[PANEL];
        for (int j = 0; j < PANEL; j++) {
            const long p = start + min(j, columns - 1);
            z[j] = p / (phase[2] * phase[3]);
            y[j] = p / phase[3] % phase[2];
            c[j] = p % phase[3];
            place_of[j] = ((phase[4] + z[j] * STRIDE(0)) * RESULT(1) + phase[5] + y[j] * STRIDE(1)) * RESULT(2)
                          + phase[6] + c[j] * STRIDE(2);
        }
        global const B *source = x + block * channels * volume;
        global const T *own = scratch + group * rows * channels * count + rows * channels * phase[7];
        global const long *reaching = taps + phase[7] * TAP_FACTS;
        global OUT *target = out + block * rows * places;
        const long depth = channels * phase[8];
        const int beyond = pack_shifted(source, slot, g, reaching, phase[8], channels, z, y, c);
        multiply(own, slot, target,
#if BIAS_ROW
                 bias + group * rows,
#endif
                 place_of, 0, rows, depth, places, columns);
        if (!beyond) continue;
        for (long m = 0; m < rows; m++)
            for (int j = 0; j < columns; j++) {
                const T found = (T)LOAD_OUT(target, m * places + place_of[j]);
                if (found == found) continue;
                const T total = element(source, own + m * depth, g, reaching, phase[8], channels, z[j], y[j], c[j]);
#if BIAS_ROW
                STORE_OUT(target, m * places + place_of[j], total + (T)LOAD_BIAS(bias, group * rows + m));
#else
                STORE_OUT(target, m * places + place_of[j], total);
#endif
            }
    }
}

#endif
