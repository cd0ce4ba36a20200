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
