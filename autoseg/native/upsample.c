/* Transposed convolutions whose kernel is their stride, written straight into one tensor with the skip connection: no
   concatenation afterwards, no slicing in the backward pass. Every voxel belongs to one thread, so nothing is added
   across threads but the weights' gradients, and those in a fixed order. */

#include <string.h>
#include <omp.h>
#include "gemm.h"

typedef struct {
    i64 batch, z, y, x, inputs, outputs, kz, ky, kx, skips; /* z, y, x of the coarse tensor; skips: channels joined */
    i64 taps, pitch;                                        /* pitch: floats from one joined voxel to the next */
} Upsampling;

static Upsampling upsampling_of(const i64 *given) {
    Upsampling u;
    memcpy(&u, given, 10 * sizeof(i64));
    u.taps = u.kz * u.ky * u.kx;
    u.pitch = u.outputs + u.skips;
    return u;
}

/* The first voxel, in the joined tensor, of what one row of coarse voxels becomes under one entry of the kernel. */
static inline i64 joined_row(const Upsampling *u, i64 line, i64 tap) {
    i64 y = line % u->y, z = line / u->y % u->z, n = line / u->y / u->z;
    i64 fine_z = z * u->kz + tap / u->kx / u->ky, fine_y = y * u->ky + tap / u->kx % u->ky;
    return (((n * u->z * u->kz + fine_z) * u->y * u->ky + fine_y) * u->x * u->kx + tap % u->kx) * u->pitch;
}

/* coarse (batch, z, y, x, inputs), weights (kz, ky, kx, inputs, outputs), skip (batch, fine shape, skips)
   -> joined (batch, fine shape, outputs + skips): the upsampled channels, then the skip's */
void upsample_forward(const float *coarse, const float *weights, const float *bias, const float *skip, float *joined,
                      const i64 *given, i64 threads) {
    Upsampling u = upsampling_of(given);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (i64 line = 0; line < u.batch * u.z * u.y; line++)
            for (i64 tap = 0; tap < u.taps; tap++)
                gemm((Left){coarse + line * u.x * u.inputs, u.inputs, 1},
                     ordinary(weights + tap * u.inputs * u.outputs, u.outputs), ordinary(bias, 0),
                     ordinary(joined + joined_row(&u, line, tap), u.kx * u.pitch), u.x, u.outputs, u.inputs);
#pragma omp for schedule(static)
        for (i64 voxel = 0; voxel < u.batch * u.z * u.y * u.x * u.taps; voxel++)
            memcpy(joined + voxel * u.pitch + u.outputs, skip + voxel * u.skips, u.skips * sizeof(float));
    }
}

/* weights here (kz, ky, kx, outputs, inputs): gradient of the joined tensor -> gradient of the coarse one */
void upsample_coarse(const float *joined, const float *weights, float *coarse, const i64 *given, i64 threads) {
    Upsampling u = upsampling_of(given);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 line = 0; line < u.batch * u.z * u.y; line++) {
        float *row = coarse + line * u.x * u.inputs;
        memset(row, 0, u.x * u.inputs * sizeof(float));
        for (i64 tap = 0; tap < u.taps; tap++)
            gemm((Left){joined + joined_row(&u, line, tap), u.kx * u.pitch, 1},
                 ordinary(weights + tap * u.inputs * u.outputs, u.inputs), ordinary(row, u.inputs),
                 ordinary(row, u.inputs), u.x, u.inputs, u.outputs);
    }
}

/* Gradients of the weights (kz, ky, kx, inputs, outputs), then of the bias, in `total`. `sums` is work space of
   threads x the size of total. */
void upsample_weights(const float *coarse, const float *joined, float *sums, float *total, const i64 *given,
                      i64 threads) {
    Upsampling u = upsampling_of(given);
    i64 plane = u.inputs * u.outputs, size = u.taps * plane + u.outputs;
    memset(sums, 0, threads * size * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *own = sums + omp_get_thread_num() * size, *bias = own + u.taps * plane;
#pragma omp for schedule(static)
        for (i64 line = 0; line < u.batch * u.z * u.y; line++)
            for (i64 tap = 0; tap < u.taps; tap++) {
                const float *row = joined + joined_row(&u, line, tap);
                Panels sum = ordinary(own + tap * plane, u.outputs);
                gemm((Left){coarse + line * u.x * u.inputs, 1, u.inputs}, ordinary(row, u.kx * u.pitch), sum, sum,
                     u.inputs, u.outputs, u.x);
                for (i64 i = 0; i < u.x; i++)
                    for (i64 k = 0; k < u.outputs; k++) bias[k] += row[i * u.kx * u.pitch + k];
            }
#pragma omp for schedule(static)
        for (i64 i = 0; i < size; i++) {
            float sum = 0;
            for (i64 t = 0; t < threads; t++) sum += sums[t * size + i];
            total[i] = sum;
        }
    }
}
