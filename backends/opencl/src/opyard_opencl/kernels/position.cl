// Position of the first extreme element, or of the first NaN: [outer, length, width] -> [outer, width]. Macro: BETTER(a, b).

kernel void NAME(find_position)(global const X *restrict x, global long *restrict out,
                          long units, long length, long width, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        global const X *column = x + u / width * length * width + u % width;
        T best = LOAD_X(column, 0);
        long place = 0;
        for (long r = 1; r < length && best == best; r++) {
            const T found = LOAD_X(column, r * width);
            if (BETTER(found, best) || found != found) {
                best = found;
                place = r;
            }
        }
        out[u] = place;
    }
}
