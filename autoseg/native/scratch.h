/* Working memory that a thread keeps between calls: fresh pages cost as much as the arithmetic on them. */

#ifndef AUTOSEG_SCRATCH_H
#define AUTOSEG_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include "gemm.h"

static inline float *scratch(i64 floats) {
    static __thread float *kept = NULL;
    static __thread i64 size = 0;
    if (floats > size) {
        free(kept);
        size = (floats + 1023) / 1024 * 1024;
        kept = aligned_alloc(4096, size * sizeof(float));
        if (!kept) {
            fputs("autoseg: no memory for a convolution's working space\n", stderr);
            abort();
        }
    }
    return kept;
}

#endif
