/* Any convolution as it is written down: with a stride, or of so few channels that no transform pays. Some voxels'
   surroundings are copied side by side (little beside the products: one copy for as many sums as there are outputs),
   then it is one matrix product. For prediction; needs no more memory than `scratch`. */

#include <string.h>
#include <omp.h>
#include "gemm.h"
#include "scratch.h"

#define COPIED (1 << 18) /* floats that a thread copies at a time: 1 MB, so that they stay in a 1 MB to 2 MB cache */
#define DEPTH 1024       /* of one product: its panel of weights, 128 KB, stays in the cache while the rows pass by */

typedef struct {
    i64 batch, z, y, x, inputs, outputs, kz, ky, kx, sz, sy, sx; /* kernel and stride per axis, as the caller gives them */
    i64 oz, oy, ox, depth;
} Direct;

static inline i64 edge_of(i64 size, i64 kernel, i64 stride) { return (size + (kernel - 1) / 2 * 2 - kernel) / stride + 1; }

static Direct direct_of(const i64 *given) {
    Direct d;
    memcpy(&d, given, 12 * sizeof(i64));
    d.oz = edge_of(d.z, d.kz, d.sz), d.oy = edge_of(d.y, d.ky, d.sy), d.ox = edge_of(d.x, d.kx, d.sx);
    d.depth = d.kz * d.ky * d.kx * d.inputs;
    return d;
}

/* What one output voxel is made of, zeros beyond the image: (kz, ky, kx, inputs). */
static inline void surroundings(const Direct *d, const float *image, i64 voxel, float *to) {
    i64 x = voxel % d->ox * d->sx - (d->kx - 1) / 2, y = voxel / d->ox % d->oy * d->sy - (d->ky - 1) / 2;
    i64 z = voxel / d->ox / d->oy % d->oz * d->sz - (d->kz - 1) / 2, n = voxel / d->ox / d->oy / d->oz;
    i64 row = d->kx * d->inputs, low = x < 0 ? -x : 0, high = x + d->kx > d->x ? d->x - x : d->kx;
    for (i64 i = z; i < z + d->kz; i++)
        for (i64 j = y; j < y + d->ky; j++, to += row) {
            if (i < 0 || i >= d->z || j < 0 || j >= d->y || low >= high) {
                memset(to, 0, row * sizeof(float));
                continue;
            }
            const float *from = image + (((n * d->z + i) * d->y + j) * d->x + x) * d->inputs;
            memset(to, 0, low * d->inputs * sizeof(float));
            memcpy(to + low * d->inputs, from + low * d->inputs, (high - low) * d->inputs * sizeof(float));
            memset(to + high * d->inputs, 0, (d->kx - high) * d->inputs * sizeof(float));
        }
}

/* The same of `count` output voxels for an image of few channels, transposed: entry q of voxel k at to[q * share + k].
   Along x lie as many neighbours as there are voxels in a row, whose copies are worth a loop of their own. */
static void surroundings_of_few(const Direct *d, const float *image, i64 first, i64 count, i64 share, float *to) {
    for (i64 done = 0; done < count;) {
        i64 start = (first + done) % d->ox, line = (first + done) / d->ox;
        i64 width = d->ox - start < count - done ? d->ox - start : count - done;
        i64 n = line / d->oy / d->oz, z = line / d->oy % d->oz * d->sz - (d->kz - 1) / 2;
        i64 y = line % d->oy * d->sy - (d->ky - 1) / 2;
        float *p = to + done;
        for (i64 i = z; i < z + d->kz; i++)
            for (i64 j = y; j < y + d->ky; j++) {
                int inside = i >= 0 && i < d->z && j >= 0 && j < d->y;
                const float *row = image + ((n * d->z + i) * d->y + j) * d->x * d->inputs;
                for (i64 k = 0; k < d->kx; k++) {
                    i64 x = start * d->sx + k - (d->kx - 1) / 2, step = d->sx * d->inputs; /* of the first voxel */
                    i64 low = x < 0 ? (d->sx - 1 - x) / d->sx : 0, high = inside ? (d->x - x + d->sx - 1) / d->sx : 0;
                    high = high > width ? width : high;
                    for (i64 c = 0; c < d->inputs; c++, p += share) {
                        const float *from = row + x * d->inputs + c;
                        for (i64 v = 0; v < low && v < width; v++) p[v] = 0;
                        if (step == 1)
                            for (i64 v = low; v < high; v++) p[v] = from[v];
                        else
                            for (i64 v = low; v < high; v++) p[v] = from[v * step];
                        for (i64 v = high > low ? high : low; v < width; v++) p[v] = 0;
                    }
                }
            }
        done += width;
    }
}

/* Weights (kz, ky, kx, inputs, outputs) -> a packed matrix of depth x outputs. */
void direct_kernel(const float *weights, float *kernel, i64 depth, i64 outputs) {
    for (i64 row = 0; row < depth; row++)
        for (i64 column = 0; column < outputs; column++)
            kernel[packed_place(row, column, depth)] = weights[row * outputs + column];
}

/* image (batch, z, y, x, inputs), kernel as above, bias (outputs) -> result (batch, oz, oy, ox, outputs); outputs is a
   multiple of 16, padding (kernel - 1) / 2. */
void direct_forward(const float *image, const float *kernel, const float *bias, float *result, const i64 *given,
                    i64 threads) {
    Direct d = direct_of(given);
    int few = d.inputs < LANES;
    i64 voxels = d.batch * d.oz * d.oy * d.ox, share = COPIED / d.depth / 28 * 28;
    share = equal_share(voxels, share < 28 ? 28 : share > 224 ? 224 : share, threads);
#pragma omp parallel num_threads(threads)
    {
        float *rows = scratch(share * d.depth);
#pragma omp for schedule(static)
        for (i64 first = 0; first < voxels; first += share) {
            i64 count = voxels - first < share ? voxels - first : share;
            if (few) surroundings_of_few(&d, image, first, count, share, rows);
            else
                for (i64 k = 0; k < count; k++) surroundings(&d, image, first + k, rows + k * d.depth);
            Panels to = ordinary(result + first * d.outputs, d.outputs);
            for (i64 low = 0; low < d.depth; low += DEPTH) {
                i64 depth = d.depth - low < DEPTH ? d.depth - low : DEPTH;
                Panels from = packed(kernel + low * PANEL, d.depth);
                Left left = few ? (Left){rows + low * share, 1, share} : (Left){rows + low, d.depth, 1};
                gemm(left, from, low ? to : ordinary(bias, 0), to, count, d.outputs, depth);
            }
        }
    }
}
