// Stable sorting of rows of [outer, length, width] along length: runs of RUN elements by insertion, then merges of neighbouring
// runs, each cut into segments that are merged at the same time. Keys and positions lie in scratch memory, row after row.
// Source of the cuts: S. Odeh, O. Green, Z. Mwassi, O. Shmueli and Y. Birk, "Merge path", IPDPSW 2012.
// NaN counts as greater than every number.

#define RUN 32

static inline int precedes(T a, T b, int descending) {
#if T_FLOATING
    if (a != a || b != b) return descending ? a != a && b == b : b != b && a == a;
#endif
    return descending ? a > b : a < b;
}

kernel void sort_runs(global const X *restrict x, global T *restrict keys, global int *restrict places, long units,
                      long length, long width, long runs, long step, int descending) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long row = u / runs, start = u % runs * RUN;
        const int count = (int)min((long)RUN, length - start);
        global const X *source = x + row / width * length * width + row % width + start * width;
        T key[RUN];
        int place[RUN];
        for (int i = 0; i < count; i++) {
            const T next = (T)LOAD_X(source, i * width);
            int at = i;
            for (; at > 0 && precedes(next, key[at - 1], descending); at--) {
                key[at] = key[at - 1];
                place[at] = place[at - 1];
            }
            key[at] = next;
            place[at] = (int)start + i;
        }
        for (int i = 0; i < count; i++) {
            keys[row * length + start + i] = key[i];
            places[row * length + start + i] = place[i];
        }
    }
}

// Neighbouring runs of ``run`` elements become one. A unit is (row, segment of the output).
kernel void merge_runs(global const T *restrict keys, global const int *restrict places, global T *restrict new_keys,
                       global int *restrict new_places, long units, long length, long run, long segments, long segment,
                       long step, int descending) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long start = u % segments * segment, pair = start / (2 * run) * 2 * run, end = min(start + segment, length);
        const long left = min(run, length - pair), right = min(run, length - pair - left), before = start - pair;
        global const T *a = keys + u / segments * length + pair, *b = a + left;
        global const int *a_places = places + u / segments * length + pair, *b_places = a_places + left;
        // how many of the elements before the segment are of the left run
        long low = max(0L, before - right), high = min(before, left);
        while (low < high) {
            const long middle = (low + high) / 2;
            if (precedes(b[before - middle - 1], a[middle], descending)) high = middle;
            else low = middle + 1;
        }
        long i = low, j = before - low;
        for (long to = u / segments * length + start; to < u / segments * length + end; to++) {
            const int take_right = j < right && (i >= left || precedes(b[j], a[i], descending));
            new_keys[to] = take_right ? b[j] : a[i];
            new_places[to] = take_right ? b_places[j] : a_places[i];
            j += take_right;
            i += !take_right;
        }
    }
}

// The first ``kept`` of each row, at most RUN, by insertion alone: most elements cost one comparison. places [rows, kept]
kernel void select_few(global const X *restrict x, global int *restrict places, long rows, long length, long width, long kept,
                       long step, int descending) {
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    for (long row = first; row < last; row++) {
        global const X *source = x + row / width * length * width + row % width;
        T key[RUN];
        int place[RUN], count = 0;
        for (long i = 0; i < length; i++) {
            const T next = (T)LOAD_X(source, i * width);
            if (count == kept && !precedes(next, key[count - 1], descending)) continue;
            int at = count < kept ? count++ : count - 1;
            for (; at > 0 && precedes(next, key[at - 1], descending); at--) {
                key[at] = key[at - 1];
                place[at] = place[at - 1];
            }
            key[at] = next;
            place[at] = (int)i;
        }
        for (int i = 0; i < kept; i++) places[row * kept + i] = place[i];
    }
}

// The first ``kept`` of each row: [outer, kept, width]; places [rows, stride]
kernel void write_values(global const X *restrict x, global const int *restrict places, global X *restrict out, long units,
                         long length, long width, long kept, long stride, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long row = u / kept, number = u % kept, outer = row / width, column = row % width;
        out[(outer * kept + number) * width + column] = x[(outer * length + places[row * stride + number]) * width + column];
    }
}

kernel void write_places(global const int *restrict places, global long *restrict out, long units, long length, long width,
                         long kept, long stride, long step) {
    const long first = get_global_id(0) * step, last = min(first + step, units);
    for (long u = first; u < last; u++) {
        const long row = u / kept, number = u % kept;
        out[(row / width * kept + number) * width + row % width] = places[row * stride + number];
    }
}
