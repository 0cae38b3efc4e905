/* Convolutions with kernel 3 and stride 1 by Winograd's minimal filtering: fewer multiplications, same result.

   A tile of m outputs per axis needs m + 2 products instead of 3 m: with m = 4 in three axes 216 instead of 1728, with
   m = 2 64 instead of 216. The products of one component over many tiles are a matrix product of tiles x channels with
   channels x channels. Interpolation points 0, ±1 (m = 2) and 0, ±2/3, ±3/2 (m = 4): among the symmetric choices these
   keep single precision best (largest error in 3D 5e-6 of the outputs' size, against 7e-7 for m = 2 and 2.6e-5 for the
   usual 0, ±1, ±2; our measurement, 64 channels of normal deviates).
   An axis with kernel 1 has m = 1 and is left alone.

   Sources: S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin, S. Gray, Fast Algorithms for
   Convolutional Neural Networks, CVPR 2016. */

#include <stdlib.h>
#include <string.h>
#include <omp.h>
#include "gemm.h"
#include "scratch.h"

#define P (2.f / 3.f)
#define Q (3.f / 2.f)
#define P2 (P * P)
#define Q2 (Q * Q)
#define SUM2 (P2 + Q2)
#define BY_P (1.f / (2.f * P2 * (P2 - Q2)))
#define BY_Q (1.f / (2.f * Q2 * (Q2 - P2)))
#define MOST 216 /* components of the largest tile: (4 + 2) cubed */

/* One line of a tile: `step` floats lie between its entries, `pace` between those of the result. */
#define LINE(name, inputs, outputs, body)                                                                              \
    static inline __attribute__((always_inline)) void name(const float *from, i64 step, float *to, i64 pace) {         \
        v16 x[6], y[6];                                                                                                \
        for (int i = 0; i < inputs; i++) x[i] = load(from + i * step);                                                 \
        body for (int i = 0; i < outputs; i++) store(to + i * pace, y[i]);                                             \
    }

/* Image: m + 2 voxels -> m + 2 components. */
LINE(image_2, 4, 4, y[0] = x[0] - x[2]; y[1] = x[1] + x[2]; y[2] = x[2] - x[1]; y[3] = x[3] - x[1];)
LINE(image_4, 6, 6, v16 e = x[4] - Q2 * x[2]; v16 o = P * x[3] - Q * x[1]; v16 f = x[4] - P2 * x[2];
     v16 g = Q * x[3] - P * x[1]; y[0] = x[0] - SUM2 * x[2] + x[4]; y[1] = e + o; y[2] = e - o; y[3] = f + g;
     y[4] = f - g; y[5] = x[1] - SUM2 * x[3] + x[5];)
/* Result: m + 2 components -> m outputs. */
LINE(result_2, 4, 2, y[0] = x[0] + x[1] + x[2]; y[1] = x[1] - x[2] + x[3];)
LINE(result_4, 6, 4, v16 s = x[1] + x[2]; v16 d = x[1] - x[2]; v16 t = x[3] + x[4]; v16 e = x[3] - x[4];
     y[0] = x[0] + s + t; y[1] = P * d + Q * e; y[2] = P2 * s + Q2 * t; y[3] = P *P2 *d + Q * Q2 * e + x[5];)
/* Gradient of the outputs: m outputs -> m + 2 components (the transpose of the result's transform). */
LINE(gradient_2, 2, 4, y[0] = x[0]; y[1] = x[0] + x[1]; y[2] = x[0] - x[1]; y[3] = x[1];)
LINE(gradient_4, 4, 6, v16 e = x[0] + P2 * x[2]; v16 o = P * x[1] + P * P2 * x[3]; v16 f = x[0] + Q2 * x[2];
     v16 g = Q * x[1] + Q * Q2 * x[3]; y[0] = x[0]; y[1] = e + o; y[2] = e - o; y[3] = f + g; y[4] = f - g;
     y[5] = x[3];)
/* Kernel: 3 weights -> m + 2 components, and the transpose of that. */
LINE(kernel_2, 3, 4, v16 e = .5f * (x[0] + x[2]); v16 o = .5f * x[1]; y[0] = x[0]; y[1] = e + o; y[2] = e - o;
     y[3] = x[2];)
LINE(kernel_4, 3, 6, v16 e = BY_P * (x[0] + P2 * x[2]); v16 o = BY_P * P * x[1]; v16 f = BY_Q * (x[0] + Q2 * x[2]);
     v16 g = BY_Q * Q * x[1]; y[0] = x[0]; y[1] = e + o; y[2] = e - o; y[3] = f + g; y[4] = f - g; y[5] = x[2];)
LINE(weights_2, 4, 3, v16 s = .5f * (x[1] + x[2]); y[0] = x[0] + s; y[1] = .5f * (x[1] - x[2]); y[2] = s + x[3];)
LINE(weights_4, 6, 3, v16 s = BY_P * (x[1] + x[2]); v16 d = BY_P * (x[1] - x[2]); v16 t = BY_Q * (x[3] + x[4]);
     v16 e = BY_Q * (x[3] - x[4]); y[0] = x[0] + s + t; y[1] = P * d + Q * e; y[2] = P2 * s + Q2 * t + x[5];)

#define AXIS(name, two, four)                                                                                          \
    static inline __attribute__((always_inline)) void name(i64 m, const float *from, i64 step, float *to, i64 pace) {                                 \
        if (m == 4) four(from, step, to, pace);                                                                        \
        else if (m == 2) two(from, step, to, pace);                                                                    \
        else store(to, load(from));                                                                                    \
    }
AXIS(image_line, image_2, image_4)
AXIS(result_line, result_2, result_4)
AXIS(gradient_line, gradient_2, gradient_4)
AXIS(kernel_line, kernel_2, kernel_4)
AXIS(weights_line, weights_2, weights_4)

typedef struct {
    i64 batch, z, y, x, inputs, outputs, mz, my, mx; /* as the caller gives them */
    i64 az, ay, ax;                                  /* components per axis */
    i64 tz, ty, tx;                                  /* tiles per axis */
    i64 components, tiles, share;                    /* share: tiles that are transformed at a time */
} Layout;

static Layout layout_of(const i64 *given) {
    Layout l;
    memcpy(&l, given, 9 * sizeof(i64));
    l.az = l.mz == 1 ? 1 : l.mz + 2, l.ay = l.my == 1 ? 1 : l.my + 2, l.ax = l.mx == 1 ? 1 : l.mx + 2;
    l.tz = (l.z + l.mz - 1) / l.mz, l.ty = (l.y + l.my - 1) / l.my, l.tx = (l.x + l.mx - 1) / l.mx;
    l.components = l.az * l.ay * l.ax;
    l.tiles = l.batch * l.tz * l.ty * l.tx;
    l.share = 28; /* two blocks of 14 rows; fits a 2 MB cache at 32 channels, and halves the reading of the weights */
    return l;
}

/* Floats between two tiles: all components, and one more vector so that tiles do not share the same cache lines. */
static inline i64 pitch(const Layout *l, i64 channels) { return l->components * channels + LANES; }

typedef struct {
    i64 n, z, y, x;
} Corner;

static inline Corner corner_of(const Layout *l, i64 tile) {
    Corner c;
    c.x = tile % l->tx * l->mx, tile /= l->tx;
    c.y = tile % l->ty * l->my, tile /= l->ty;
    c.z = tile % l->tz * l->mz, c.n = tile / l->tz;
    return c;
}

/* 16 channels of `count` voxels along x, a voxel every `*step` floats. Where some lie outside the image they are put
   into `edge`, with zeros for those. */
static inline const float *row_of(const Layout *l, const float *image, i64 channels, i64 n, i64 z, i64 y, i64 x,
                                  i64 count, float *edge, i64 *step) {
    int inside = z >= 0 && z < l->z && y >= 0 && y < l->y;
    const float *p = image + (((n * l->z + z) * l->y + y) * l->x + x) * channels;
    *step = channels;
    if (inside && x >= 0 && x + count <= l->x) return p;
    for (i64 k = 0; k < count; k++)
        store(edge + k * LANES, inside && x + k >= 0 && x + k < l->x ? load(p + k * channels) : (v16){0});
    *step = LANES;
    return edge;
}

/* Each transform is written once for any tile, and compiled apart for the tiles that matter, with their sizes known. */
#define INLINE static inline __attribute__((always_inline))
#define SPAN(m) ((m) == 1 ? 1 : (m) + 2)
#define FOR_TILE(transform, ...)                                                                                       \
    do {                                                                                                               \
        if (l->my == 4 && l->mx == 4 && l->mz == 4) transform(l, 4, 4, 4, __VA_ARGS__);                                \
        else if (l->my == 4 && l->mx == 4 && l->mz == 2) transform(l, 2, 4, 4, __VA_ARGS__);                           \
        else if (l->my == 4 && l->mx == 4 && l->mz == 1) transform(l, 1, 4, 4, __VA_ARGS__);                           \
        else transform(l, l->mz, l->my, l->mx, __VA_ARGS__);                                                           \
    } while (0)

/* The last two of three passes over a tile, y and z, from `box` to `p`; nz: planes that came out of the first. */
#define PASSES(line, nz)                                                                                               \
    for (i64 i = 0; i < nz; i++)                                                                                       \
        for (i64 k = 0; k < SPAN(mx); k++) {                                                                           \
            float *q = box + (i * plane + k) * LANES;                                                                  \
            line(my, q, SPAN(mx) * LANES, q, SPAN(mx) * LANES);                                                        \
        }                                                                                                              \
    for (i64 k = 0; k < plane; k++) line(mz, box + k * LANES, plane * LANES, p + k * channels, plane * channels);

INLINE void image_tile(const Layout *l, i64 mz, i64 my, i64 mx, const float *image, Corner c, float *to) {
    float box[MOST * LANES] ALIGNED, edge[6 * LANES] ALIGNED;
    const i64 plane = SPAN(my) * SPAN(mx), channels = l->inputs;
    for (i64 channel = 0; channel < channels; channel += LANES) {
        float *p = to + channel;
        for (i64 i = 0; i < SPAN(mz); i++)
            for (i64 j = 0; j < SPAN(my); j++) {
                i64 step;
                const float *row = row_of(l, image + channel, channels, c.n, c.z + i - (mz > 1), c.y + j - (my > 1),
                                          c.x - (mx > 1), SPAN(mx), edge, &step);
                image_line(mx, row, step, box + (i * plane + j * SPAN(mx)) * LANES, LANES);
            }
        PASSES(image_line, SPAN(mz))
    }
}

INLINE void gradient_tile(const Layout *l, i64 mz, i64 my, i64 mx, const float *gradient, Corner c, float *to,
                          float *bias) {
    float box[MOST * LANES] ALIGNED, edge[6 * LANES] ALIGNED;
    const i64 plane = SPAN(my) * SPAN(mx), channels = l->outputs;
    for (i64 channel = 0; channel < channels; channel += LANES) {
        float *p = to + channel;
        v16 sum = load(bias + channel);
        for (i64 i = 0; i < mz; i++)
            for (i64 j = 0; j < my; j++) {
                i64 step;
                const float *row =
                    row_of(l, gradient + channel, channels, c.n, c.z + i, c.y + j, c.x, mx, edge, &step);
                for (i64 k = 0; k < mx; k++) sum += load(row + k * step);
                gradient_line(mx, row, step, box + (i * plane + j * SPAN(mx)) * LANES, LANES);
            }
        store(bias + channel, sum);
        PASSES(gradient_line, mz)
    }
}

INLINE void result_tile(const Layout *l, i64 mz, i64 my, i64 mx, const float *from, Corner c, const float *bias,
                        float *result) {
    float box[MOST * LANES] ALIGNED, row[6 * LANES] ALIGNED;
    const i64 plane = SPAN(my) * SPAN(mx), channels = l->outputs;
    i64 width = l->x - c.x < mx ? l->x - c.x : mx;
    for (i64 channel = 0; channel < channels; channel += LANES) {
        const float *p = from + channel;
        for (i64 k = 0; k < plane; k++)
            result_line(mz, p + k * channels, plane * channels, box + k * LANES, plane * LANES);
        for (i64 i = 0; i < mz; i++)
            for (i64 k = 0; k < SPAN(mx); k++) {
                float *q = box + (i * plane + k) * LANES;
                result_line(my, q, SPAN(mx) * LANES, q, SPAN(mx) * LANES);
            }
        v16 offset = bias ? load(bias + channel) : (v16){0};
        for (i64 i = 0; i < mz && c.z + i < l->z; i++)
            for (i64 j = 0; j < my && c.y + j < l->y; j++) {
                result_line(mx, box + (i * plane + j * SPAN(mx)) * LANES, LANES, row, LANES);
                float *q = result + (((c.n * l->z + c.z + i) * l->y + c.y + j) * l->x + c.x) * channels + channel;
                for (i64 k = 0; k < width; k++) store(q + k * channels, load(row + k * LANES) + offset);
            }
    }
}

static void transform_image(const Layout *l, const float *image, i64 first, i64 count, float *to) {
    for (i64 t = 0; t < count; t++)
        FOR_TILE(image_tile, image, corner_of(l, first + t), to + t * pitch(l, l->inputs));
}

static void transform_gradient(const Layout *l, const float *gradient, i64 first, i64 count, float *to, float *bias) {
    for (i64 t = 0; t < count; t++)
        FOR_TILE(gradient_tile, gradient, corner_of(l, first + t), to + t * pitch(l, l->outputs), bias);
}

static void transform_result(const Layout *l, const float *from, i64 first, i64 count, const float *bias,
                             float *result) {
    for (i64 t = 0; t < count; t++)
        FOR_TILE(result_tile, from + t * pitch(l, l->outputs), corner_of(l, first + t), bias, result);
}

/* Weights (kz, ky, kx, inputs, outputs), a kernel axis of m = 1 having one entry -> per component a packed matrix of
   inputs x outputs. */
void winograd_kernel(const float *weights, float *kernel, const i64 *given, i64 threads) {
    Layout l = layout_of(given);
    i64 kz = l.mz > 1 ? 3 : 1, ky = l.my > 1 ? 3 : 1, kx = l.mx > 1 ? 3 : 1;
    i64 plane = l.inputs * l.outputs, size = packed_size(l.inputs, l.outputs), face = l.ay * l.ax;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 place = 0; place < plane; place += LANES) {
        float box[MOST * LANES] ALIGNED;
        for (i64 i = 0; i < kz; i++) {
            for (i64 j = 0; j < ky; j++)
                kernel_line(l.mx, weights + (i * ky + j) * kx * plane + place, plane, box + (i * face + j * l.ax) * LANES,
                            LANES);
            for (i64 k = 0; k < l.ax; k++) {
                float *p = box + (i * face + k) * LANES;
                kernel_line(l.my, p, l.ax * LANES, p, l.ax * LANES);
            }
        }
        float *to = kernel + packed_place(place / l.outputs, place % l.outputs, l.inputs);
        for (i64 k = 0; k < face; k++) kernel_line(l.mz, box + k * LANES, face * LANES, to + k * size, face * size);
    }
}

/* image (batch, z, y, x, inputs), kernel as above, bias (outputs) or NULL -> result (batch, z, y, x, outputs). */
void winograd_forward(const float *image, const float *kernel, const float *bias, float *result, const i64 *given,
                      i64 threads) {
    Layout l = layout_of(given);
    i64 in = pitch(&l, l.inputs), out = pitch(&l, l.outputs), size = packed_size(l.inputs, l.outputs);
    l.share = equal_share(l.tiles, l.share, threads);
#pragma omp parallel num_threads(threads)
    {
        float *images = scratch(l.share * (in + out)), *products = images + l.share * in;
#pragma omp for schedule(static)
        for (i64 first = 0; first < l.tiles; first += l.share) {
            i64 count = l.tiles - first < l.share ? l.tiles - first : l.share;
            transform_image(&l, image, first, count, images);
            for (i64 k = 0; k < l.components; k++)
                gemm((Left){images + k * l.inputs, in, 1}, packed(kernel + k * size, l.inputs), zeros(),
                     ordinary(products + k * l.outputs, out), count, l.outputs, l.inputs);
            transform_result(&l, products, first, count, bias, result);
        }
    }
}

/* Gradient of the weights, (kz, ky, kx, inputs, outputs), and of the bias, from the image and the outputs' gradient.
   `sums`: per thread a packed matrix per component and a row of outputs; they are added in a fixed order. */
void winograd_weights(const float *image, const float *gradient, float *sums, float *weights, float *bias,
                      const i64 *given, i64 threads) {
    Layout l = layout_of(given);
    i64 size = packed_size(l.inputs, l.outputs), all = l.components * size + l.outputs;
    i64 in = pitch(&l, l.inputs), out = pitch(&l, l.outputs);
    memset(sums, 0, threads * all * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *images = scratch(l.share * (in + out)), *gradients = images + l.share * in;
        float *own = sums + omp_get_thread_num() * all;
#pragma omp for schedule(static)
        for (i64 first = 0; first < l.tiles; first += l.share) {
            i64 count = l.tiles - first < l.share ? l.tiles - first : l.share;
            transform_image(&l, image, first, count, images);
            transform_gradient(&l, gradient, first, count, gradients, own + l.components * size);
            for (i64 k = 0; k < l.components; k++) {
                Panels sum = packed(own + k * size, l.inputs);
                gemm((Left){images + k * l.inputs, 1, in}, ordinary(gradients + k * l.outputs, out), sum, sum, l.inputs,
                     l.outputs, count);
            }
        }
    }
    i64 kz = l.mz > 1 ? 3 : 1, ky = l.my > 1 ? 3 : 1, kx = l.mx > 1 ? 3 : 1;
    i64 plane = l.inputs * l.outputs, face = l.ay * l.ax;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 place = 0; place < plane; place += LANES) {
        float box[MOST * LANES] ALIGNED;
        const float *from = sums + packed_place(place / l.outputs, place % l.outputs, l.inputs);
        for (i64 k = 0; k < l.components; k++) {
            v16 sum = load(from + k * size);
            for (i64 t = 1; t < threads; t++) sum += load(from + t * all + k * size);
            store(box + k * LANES, sum);
        }
        for (i64 k = 0; k < face; k++)
            weights_line(l.mz, box + k * LANES, face * LANES, box + k * LANES, face * LANES);
        for (i64 i = 0; i < kz; i++) {
            for (i64 k = 0; k < l.ax; k++) {
                float *p = box + (i * face + k) * LANES;
                weights_line(l.my, p, l.ax * LANES, p, l.ax * LANES);
            }
            for (i64 j = 0; j < ky; j++)
                weights_line(l.mx, box + (i * face + j * l.ax) * LANES, LANES,
                             weights + (i * ky + j) * kx * plane + place, plane);
        }
    }
    for (i64 c = 0; c < l.outputs; c++) {
        bias[c] = 0;
        for (i64 t = 0; t < threads; t++) bias[c] += sums[t * all + l.components * size + c];
    }
}
