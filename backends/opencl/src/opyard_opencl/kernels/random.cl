// Random numbers of a key: uint32 [2]. Macro: WIDE, one unit number for each two words of the stream, else one for each word.
// Source of the generator: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11 (Philox4x32-10).

#pragma OPENCL FP_CONTRACT OFF  // the references round each product before they add

#define NUMBERS (WIDE ? 2 : 4)  // of a block of four words

static inline void next_block(ulong number, uint purpose, uint low_key, uint high_key, uint *words) {
    uint c0 = (uint)number, c1 = (uint)(number >> 32), c2 = 0, c3 = purpose;
    for (int i = 0; i < 10; i++) {
        const ulong first = (ulong)c0 * 0xD2511F53u, second = (ulong)c2 * 0xCD9E8D57u;
        c0 = (uint)(second >> 32) ^ c1 ^ low_key;
        c2 = (uint)(first >> 32) ^ c3 ^ high_key;
        c1 = (uint)second;
        c3 = (uint)first;
        low_key += 0x9E3779B9u;
        high_key += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

// Numbers in [0, 1) of so many bits
static inline void unit_numbers(long block, global const uint *restrict key, int bits, T *found) {
    uint words[4];
    next_block((ulong)block, 0, key[0], key[1], words);
#if WIDE
    for (int i = 0; i < 2; i++)
        found[i] = (T)((((ulong)words[2 * i] << 32) | words[2 * i + 1]) >> 11) * (T)1.1102230246251565e-16;  // 2^-53
#else
    const T scale = (T)1 / (T)(1 << bits);
    for (int i = 0; i < 4; i++) found[i] = (T)(words[i] >> (32 - bits)) * scale;
#endif
}

#if T_DOUBLE
// Rounded to odd: rounded once more to a narrower type, the result is as if there had been one rounding alone.
static inline float odd_float(double x) {
    float nearest = (float)x;
    if (fabs((double)nearest) > fabs(x)) nearest = as_float(as_uint(nearest) - 1);
    return (double)nearest == x ? nearest : as_float(as_uint(nearest) | 1);
}
#else
#define odd_float(x) (x)
#endif

kernel void words(global const uint *restrict key, global uint *restrict out, long blocks, long count, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, blocks);
    for (long b = first; b < last; b++) {
        uint found[4];
        next_block((ulong)b, 0, key[0], key[1], found);
        const int here = (int)min(4L, count - 4 * b);
        for (int i = 0; i < here; i++) out[4 * b + i] = found[i];
    }
}

// The first two words of block i, of another purpose than the stream
kernel void keys(global const uint *restrict key, global uint *restrict out, long blocks, long count, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, blocks);
    for (long b = first; b < last; b++) {
        uint found[4];
        next_block((ulong)b, 1, key[0], key[1], found);
        out[2 * b] = found[0];
        out[2 * b + 1] = found[1];
    }
}

// Whether the top 24 bits of a word are less than a limit
kernel void bernoulli(global const uint *restrict key, global uchar *restrict out,
                      long blocks, long count, long step, uint limit) {
    const long first = get_global_id(0) * step, last = min(first + step, blocks);
    for (long b = first; b < last; b++) {
        uint found[4];
        next_block((ulong)b, 0, key[0], key[1], found);
        const int here = (int)min(4L, count - 4 * b);
        for (int i = 0; i < here; i++) out[4 * b + i] = (uchar)((found[i] >> 8) < limit);
    }
}

kernel void uniform(global const uint *restrict key, global OUT *restrict out,
                    long blocks, long count, long step, int bits, T low, T range) {
    const long first = get_global_id(0) * step, last = min(first + step, blocks);
    for (long b = first; b < last; b++) {
        T found[NUMBERS];
        unit_numbers(b, key, bits, found);
        const int here = (int)min((long)NUMBERS, count - NUMBERS * b);
        for (int i = 0; i < here; i++) STORE_OUT(out, NUMBERS * b + i, NARROWED(low + range * found[i]));
    }
}

// Pairs u, v of unit numbers give r cos(2 pi v) and r sin(2 pi v), r = sqrt(-2 log(1 - u)): Box and Muller, 1958
kernel void normal(global const uint *restrict key, global OUT *restrict out,
                   long blocks, long count, long step, int bits, T mean, T deviation) {
    const long first = get_global_id(0) * step, last = min(first + step, blocks);
    for (long b = first; b < last; b++) {
        T found[NUMBERS];
        unit_numbers(b, key, bits, found);
        const int here = (int)min((long)NUMBERS, count - NUMBERS * b);
        for (int i = 0; i < NUMBERS; i += 2) {
            const T radius = sqrt((T)-2 * log1p(-found[i])), angle = (T)6.283185307179586 * found[i + 1];
            found[i] = radius * cos(angle);
            found[i + 1] = radius * sin(angle);
        }
        for (int i = 0; i < here; i++) STORE_OUT(out, NUMBERS * b + i, NARROWED(mean + deviation * found[i]));
    }
}
