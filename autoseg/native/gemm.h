/* The one inner loop that everything here is made of: a small matrix product held in registers.

   Vectors are 16 floats in GCC's own notation, so the same text becomes AVX-512, AVX2 or NEON; only the number of rows
   that fit the registers differs. All tensors are channels-last: the channels of a voxel lie side by side. */

#ifndef AUTOSEG_GEMM_H
#define AUTOSEG_GEMM_H

#include <stdint.h>

typedef int64_t i64;
typedef float v16 __attribute__((vector_size(64)));
typedef float v16_unaligned __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t mask16 __attribute__((vector_size(64)));

#define LANES 16
#define ALIGNED __attribute__((aligned(64)))

static inline v16 load(const float *p) { return *(const v16_unaligned *)p; }
static inline void store(float *p, v16 v) { *(v16_unaligned *)p = v; }

/* Registers: AVX-512 has 32 of 16 floats (14 x 2 sums, 2 for B); AVX2 has 16 of 8 floats (6 x 1 sums of two halves). */
#ifdef __AVX512F__
#define WIDE 2
#define TALL 14
#else
#define WIDE 1
#define TALL 6
#endif

#define GEMM_BLOCK(name, rows, vectors)                                                                                \
    static void name(const float *a, i64 a_row, i64 a_col, const float *b, i64 b_row, const float *s, i64 s_row,      \
                     float *c, i64 c_row, i64 depth) {                                                                 \
        v16 sum[rows][vectors];                                                                                        \
        for (int i = 0; i < rows; i++)                                                                                 \
            for (int j = 0; j < vectors; j++) sum[i][j] = load(s + i * s_row + LANES * j);                             \
        for (i64 q = 0; q < depth; q++) {                                                                              \
            v16 factor[vectors];                                                                                       \
            for (int j = 0; j < vectors; j++) factor[j] = load(b + q * b_row + LANES * j);                             \
            for (int i = 0; i < rows; i++)                                                                             \
                for (int j = 0; j < vectors; j++) sum[i][j] += a[i * a_row + q * a_col] * factor[j];                   \
        }                                                                                                              \
        for (int i = 0; i < rows; i++)                                                                                 \
            for (int j = 0; j < vectors; j++) store(c + i * c_row + LANES * j, sum[i][j]);                             \
    }

GEMM_BLOCK(gemm_tall_wide, TALL, WIDE)
GEMM_BLOCK(gemm_4_wide, 4, WIDE)
GEMM_BLOCK(gemm_1_wide, 1, WIDE)
GEMM_BLOCK(gemm_tall_1, TALL, 1)
GEMM_BLOCK(gemm_4_1, 4, 1)
GEMM_BLOCK(gemm_1_1, 1, 1)

/* Element (i, q) of the left factor lies at `at[i * row + q * column]`, so that a transpose needs no copy. */
typedef struct {
    const float *at;
    i64 row, column;
} Left;

/* A matrix in panels of PANEL columns: rows of a panel lie `row` floats apart, panels `panel`. An ordinary matrix has
   panel = PANEL; one whose panels are stored one after the other is read in a straight line. */
typedef struct {
    float *at;
    i64 row, panel;
} Panels;

#define PANEL (LANES * WIDE)

static inline Panels ordinary(const float *at, i64 row) { return (Panels){(float *)at, row, PANEL}; }
static inline Panels packed(const float *at, i64 rows) { return (Panels){(float *)at, PANEL, PANEL * rows}; }
static inline Panels zeros(void) {
    static float zero[PANEL];
    return (Panels){zero, 0, 0};
}

/* Floats of a packed matrix, and the place of one element of it. */
static inline i64 packed_size(i64 rows, i64 columns) { return rows * ((columns + PANEL - 1) / PANEL * PANEL); }
static inline i64 packed_place(i64 row, i64 column, i64 rows) {
    return column / PANEL * PANEL * rows + row * PANEL + column % PANEL;
}

/* C[m, n] = S + A[m, k] B[k, n]; n is a multiple of 16. S is C itself to add to it, or zeros(), or one row (row = 0). */
static inline void gemm(Left a, Panels b, Panels s, Panels c, i64 m, i64 n, i64 k) {
    for (i64 j = 0; j < n; j += PANEL) {
        int wide = j + PANEL <= n;
        i64 i = 0;
#define ROWS(count, wide_block, narrow_block)                                                                          \
    for (; i + count <= m; i += count)                                                                                 \
        (wide ? wide_block : narrow_block)(a.at + i * a.row, a.row, a.column, b.at, b.row, s.at + i * s.row, s.row,    \
                                           c.at + i * c.row, c.row, k);
        ROWS(TALL, gemm_tall_wide, gemm_tall_1)
        ROWS(4, gemm_4_wide, gemm_4_1)
        ROWS(1, gemm_1_wide, gemm_1_1)
#undef ROWS
        b.at += b.panel, s.at += s.panel, c.at += c.panel;
    }
}

/* How many of `count` rows a thread takes at a time, at most `most`, so that all threads get as many: seven pieces for
   two threads would have one wait. */
static inline i64 equal_share(i64 count, i64 most, i64 threads) {
    i64 rounds = (count + threads * most - 1) / (threads * most), pieces = threads * (rounds > 0 ? rounds : 1);
    return (count + pieces - 1) / pieces;
}

#endif
