/* Which of many maps is the largest at every voxel of a finer grid, the maps being linear between their samples: labels
   on the grid of an image from logits on a coarser one, and never the logits there. The maps of one sample are laid
   side by side, so that 16 of them are interpolated and compared at a time. */

#include <string.h>
#include "gemm.h"

#define LEAST (-1e38f) /* below every logit: fills up the last 16 maps; finite, since it is interpolated too */

typedef struct {
    i64 maps, z, y, x, slices, rows, columns; /* z, y, x of the maps; slices, rows, columns of the finer grid */
    i64 pitch;                                /* floats from one sample to the next where maps lie side by side */
} Largest;

/* Along each axis of the finer grid: the samples on both sides, and how far it is from the lower to the higher one. */
typedef struct {
    const int32_t *low, *high;
    const float *part;
} Between;

static const mask16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const v16 lowest = {LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST,
                           LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST};

/* Lanes of two vectors, b's counted from 16 on. */
#ifdef __clang__
static inline v16 pick(v16 a, v16 b, mask16 from) {
    v16 picked;
    for (int i = 0; i < LANES; i++) picked[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return picked;
}
#else
static inline v16 pick(v16 a, v16 b, mask16 from) { return __builtin_shuffle(a, b, from); }
#endif

static inline v16 mixed(v16 low, v16 high, float part) { return (1.0f - part) * low + part * high; }

static inline v16 larger(v16 a, v16 b) {
    mask16 takes_b = b > a;
    return (v16)(((mask16)a & ~takes_b) | ((mask16)b & takes_b));
}

/* Rows become columns: blocks of 8 change places, then of 4, 2 and 1. */
#define EXCHANGE(step)                                                                                                 \
    for (int i = 0; i < LANES; i++)                                                                                    \
        if (!(i & step)) {                                                                                             \
            const mask16 upper = (lanes & step) != 0;                                                                  \
            v16 a = rows[i], b = rows[i + step];                                                                       \
            rows[i] = pick(a, b, (lanes & ~upper) | ((lanes + LANES - step) & upper));                                 \
            rows[i + step] = pick(a, b, ((lanes + step) & ~upper) | ((lanes + LANES) & upper));                        \
        }

static inline void transpose(v16 rows[LANES]) {
    EXCHANGE(8)
    EXCHANGE(4)
    EXCHANGE(2)
    EXCHANGE(1)
}

/* One slice of the maps, `stride` floats from map to map -> (voxels, pitch), the maps side by side. */
static void lay_side_by_side(const float *maps, float *to, i64 stride, const Largest *g) {
    i64 voxels = g->y * g->x;
    for (i64 next = 0; next < voxels; next += LANES) {
        i64 count = voxels < LANES ? voxels : LANES;
        i64 voxel = next + count > voxels ? voxels - count : next; /* the last ones once more */
        for (i64 map = 0; map < g->pitch; map += LANES) {
            v16 rows[LANES];
            for (i64 k = 0; k < LANES; k++) {
                const float *from = maps + (map + k) * stride + voxel;
                if (map + k >= g->maps)
                    rows[k] = lowest;
                else if (count == LANES)
                    rows[k] = load(from);
                else
                    memcpy(&rows[k], from, count * sizeof(float));
            }
            transpose(rows);
            for (i64 v = 0; v < count; v++) store(to + (voxel + v) * g->pitch + map, rows[v]);
        }
    }
}

/* One row between two rows of a lower and two of a higher slice. */
static void mix_rows(const float *low[2], const float *high[2], float part_y, float part_z, float *to, i64 floats) {
    for (i64 i = 0; i < floats; i += LANES) {
        v16 below = mixed(load(low[0] + i), load(low[1] + i), part_y);
        v16 above = mixed(load(high[0] + i), load(high[1] + i), part_y);
        store(to + i, mixed(below, above, part_z));
    }
}

/* The place of the largest of `pitch` numbers between two samples; of equals the first. */
static inline int32_t place_of_largest(const float *low, const float *high, float part, i64 pitch) {
    const mask16 turns[4] = {lanes ^ 8, lanes ^ 4, lanes ^ 2, lanes ^ 1};
    v16 best = mixed(load(low), load(high), part);
    mask16 place = lanes;
    for (i64 map = LANES; map < pitch; map += LANES) {
        v16 value = mixed(load(low + map), load(high + map), part);
        mask16 wins = value > best;
        best = larger(best, value);
        place = (place & ~wins) | ((lanes + (int32_t)map) & wins);
    }
    v16 top = best;
    for (int i = 0; i < 4; i++) top = larger(top, pick(top, top, turns[i]));
    place |= ~(best == top) & INT32_MAX; /* whoever is not the largest is out */
    for (int i = 0; i < 4; i++) {
        mask16 other = (mask16)pick((v16)place, (v16)place, turns[i]), less = other < place;
        place = (place & ~less) | (other & less);
    }
    return place[0];
}

/* A slice with its maps side by side: from one of the two that are kept, or laid out in place of the one that `other`
   is not. Slices are asked for in their order, so each is laid out once. */
static const float *laid(const float *maps, i64 slice, const float *other, float *work, i64 kept[2], const Largest *g) {
    i64 size = g->y * g->x * g->pitch;
    for (int i = 0; i < 2; i++)
        if (kept[i] == slice) return work + i * size;
    int place = other == work;
    kept[place] = slice;
    lay_side_by_side(maps + slice * g->y * g->x, work + place * size, g->z * g->y * g->x, g);
    return work + place * size;
}

/* maps (maps, z, y, x); low, high, part of slices, rows and columns, one behind the other; work (2 y x + x) samples of
   `pitch` floats -> found (slices, rows, columns) */
void largest_upsampled(const float *maps, const int32_t *low, const int32_t *high, const float *part, float *work,
                       uint16_t *found, const i64 *given) {
    Largest g;
    memcpy(&g, given, 7 * sizeof(i64));
    g.pitch = (g.maps + LANES - 1) / LANES * LANES;
    Between z = {low, high, part};
    Between y = {low + g.slices, high + g.slices, part + g.slices};
    Between x = {y.low + g.rows, y.high + g.rows, y.part + g.rows};
    i64 line = g.x * g.pitch, kept[2] = {-1, -1};
    float *row = work + 2 * g.y * line;
    for (i64 slice = 0; slice < g.slices; slice++) {
        const float *below = laid(maps, z.low[slice], NULL, work, kept, &g);
        const float *above = laid(maps, z.high[slice], below, work, kept, &g);
        for (i64 r = 0; r < g.rows; r++) {
            const float *lower[2] = {below + y.low[r] * line, below + y.high[r] * line};
            const float *upper[2] = {above + y.low[r] * line, above + y.high[r] * line};
            mix_rows(lower, upper, y.part[r], z.part[slice], row, line);
            for (i64 c = 0; c < g.columns; c++)
                *found++ = (uint16_t)place_of_largest(row + x.low[c] * g.pitch, row + x.high[c] * g.pitch, x.part[c],
                                                      g.pitch);
        }
    }
}
