/* Instance normalization and leaky ReLU in one go, channels-last, for float and for bfloat16. */

#include <math.h>
#include <string.h>
#include "gemm.h"

#define CHUNK 2048 /* voxels that one thread sums before it hands over; 64 float channels of them fit a 2 MB cache */

typedef uint16_t bf16;
typedef bf16 bf16x16 __attribute__((vector_size(32)));
typedef bf16 bf16x16_unaligned __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t bits16 __attribute__((vector_size(64)));

static inline v16 load_bf16(const bf16 *p) {
    return (v16)(__builtin_convertvector((bf16x16) * (const bf16x16_unaligned *)p, bits16) << 16);
}

static inline float value_of(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void store_bf16(bf16 *p, v16 v) { /* rounds to nearest even; NaN stays NaN */
    bits16 b = (bits16)v, nan = (bits16)(v != v);
    bits16 rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    *(bf16x16_unaligned *)p = __builtin_convertvector((rounded & ~nan) | ((b >> 16 | 0x40) & nan), bf16x16);
}

static inline v16 choose(mask16 mask, v16 yes, v16 no) {
    return (v16)(((mask16)yes & mask) | ((mask16)no & ~mask));
}

i64 norm_chunks(i64 voxels) { return (voxels + CHUNK - 1) / CHUNK; }

static inline i64 end_of(i64 chunk, i64 voxels) {
    return (chunk + 1) * CHUNK < voxels ? (chunk + 1) * CHUNK : voxels;
}

/* One channel's two sums over its chunks, in double precision. */
static inline void total(const float *sums, i64 chunks, i64 channels, i64 c, double *one, double *two) {
    *one = *two = 0;
    for (i64 k = 0; k < chunks; k++) {
        *one += sums[(2 * k) * channels + c];
        *two += sums[(2 * k + 1) * channels + c];
    }
}

#define ELEMENT float
#define LOAD load
#define STORE store
#define VALUE(x) (x)
#define FORWARD norm_forward_float
#define BACKWARD norm_backward_float
#include "norm_body.h"

#undef ELEMENT
#undef LOAD
#undef STORE
#undef VALUE
#undef FORWARD
#undef BACKWARD
#define ELEMENT bf16
#define LOAD load_bf16
#define STORE store_bf16
#define VALUE(x) value_of(x)
#define FORWARD norm_forward_bf16
#define BACKWARD norm_backward_bf16
#include "norm_body.h"
