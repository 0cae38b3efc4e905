/* Working memory that a thread keeps between calls: fresh pages cost as much as the arithmetic on them. */

#ifndef AUTOSEG_SCRATCH_H
#define AUTOSEG_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "gemm.h"

static inline float *scratch(i64 floats) {
    static __thread float *kept = NULL;
    static __thread i64 size = 0;
    if (floats > size) {
        free(kept);
        size = (floats + 1023) / 1024 * 1024;
        kept = aligned_alloc(4096, size * sizeof(float));
        if (!kept) {
            fprintf(stderr, "RoomError: main memory ran out: a convolution's working space takes %.1f MB. Give more "
                    "memory, or stop other programs; the same command then goes on with what is done\n",
                    size * sizeof(float) / 1e6);
            _exit(2);  /* in a thread of OpenMP, where no error can be raised; all that is saved is whole */
        }
    }
    return kept;
}

#endif
