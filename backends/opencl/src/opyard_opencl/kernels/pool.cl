// Pooling of [planes, d, h, w] over windows; axes that are missing have size 1. Macro: AVERAGE (else the greatest element).
// g: sizes of x, of the output and of the window, strides, padding before, dilations, and the bounds (least, end) between
// which an element counts for the average: three numbers each.

#define COLUMNS 64
#define SIZE(axis) g[axis]
#define PLACES(axis) g[3 + axis]
#define KERNEL(axis) g[6 + axis]
#define STRIDE(axis) g[9 + axis]
#define BEFORE(axis) g[12 + axis]
#define DILATION(axis) g[15 + axis]
#define LEAST(axis) g[18 + axis]
#define END(axis) g[21 + axis]

// elements of the window at place p along an axis that count
static inline int counted(long p, int axis, global const long *g) {
    int count = 0;
    for (long k = 0; k < KERNEL(axis); k++) {
        const long at = p * STRIDE(axis) - BEFORE(axis) + k * DILATION(axis);
        count += at >= LEAST(axis) && at < END(axis);
    }
    return count;
}

// A unit is a row of the output: (plane, z, y)
kernel void pool(global const X *restrict x, global OUT *restrict out, long units, long step, global const long *restrict g) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    const long s = STRIDE(2), width = SIZE(2);
    for (long u = first; u < last; u++) {
        const long py = u % PLACES(1), pz = u / PLACES(1) % PLACES(0), plane = u / PLACES(1) / PLACES(0);
        global const X *source = x + plane * SIZE(0) * SIZE(1) * width;
        global OUT *target = out + u * PLACES(2);
        for (long start = 0; start < PLACES(2); start += COLUMNS) {
            const long columns = min((long)COLUMNS, PLACES(2) - start);
            T found[COLUMNS];
            for (int j = 0; j < columns; j++) found[j] = AVERAGE ? (T)0 : T_LEAST;
            for (long kz = 0; kz < KERNEL(0); kz++)
                for (long ky = 0; ky < KERNEL(1); ky++) {
                    const long z = pz * STRIDE(0) - BEFORE(0) + kz * DILATION(0);
                    const long y = py * STRIDE(1) - BEFORE(1) + ky * DILATION(1);
                    if (z < 0 || z >= SIZE(0) || y < 0 || y >= SIZE(1)) continue;
                    global const X *row = source + (z * SIZE(1) + y) * width;
                    for (long kx = 0; kx < KERNEL(2); kx++) {
                        // places j for which 0 <= shift + j s < width
                        const long shift = start * s - BEFORE(2) + kx * DILATION(2);
                        const long low = shift >= 0 ? 0 : (s - 1 - shift) / s;
                        const long high = shift >= width ? 0 : min(columns, (width - 1 - shift) / s + 1);
                        for (long j = low; j < high; j++) {
                            const T value = (T)LOAD_X(row, shift + j * s);
#if AVERAGE
                            found[j] += value;
#else
                            found[j] = greatest_of(found[j], value);
#endif
                        }
                    }
                }
#if AVERAGE
            const int others = counted(pz, 0, g) * counted(py, 1, g);
            for (int j = 0; j < columns; j++) {
                const int count = others * counted(start + j, 2, g);
                STORE_OUT(target, start + j, found[j] / (T)(count > 0 ? count : 1));
            }
#else
            for (int j = 0; j < columns; j++) STORE_OUT(target, start + j, found[j]);
#endif
        }
    }
}
