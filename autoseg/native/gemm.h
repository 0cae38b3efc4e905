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

/* C[m, n] = S + A[m, k] B[k, n]; n is a multiple of 16. A's element (i, q) lies at a[i * a_row + q * a_col], so that its
   transpose needs no copy. S is C itself to accumulate, or one row (s_row = 0) to begin from a bias. */
static inline void gemm(const float *a, i64 a_row, i64 a_col, const float *b, i64 b_row, const float *s, i64 s_row,
                        float *c, i64 c_row, i64 m, i64 n, i64 k) {
    for (i64 j = 0; j < n; j += LANES * WIDE) {
        int wide = j + LANES * WIDE <= n;
        i64 i = 0;
#define ROWS(count, wide_block, narrow_block)                                                                          \
    for (; i + count <= m; i += count)                                                                                 \
        (wide ? wide_block : narrow_block)(a + i * a_row, a_row, a_col, b + j, b_row, s + i * s_row + j, s_row,        \
                                           c + i * c_row + j, c_row, k);
        ROWS(TALL, gemm_tall_wide, gemm_tall_1)
        ROWS(4, gemm_4_wide, gemm_4_1)
        ROWS(1, gemm_1_wide, gemm_1_1)
#undef ROWS
    }
}

#endif
