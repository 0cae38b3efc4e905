/* The two functions of norm.c for one ELEMENT type. Sums are taken around the first voxel of each channel, so that a
   large mean costs no digits, over fixed chunks, so that they do not depend on the number of threads. */

/* x -> y = leaky_relu(gamma (x - mean) / deviation + beta), both (batch, voxels, channels); y may be x. `mean` and
   `rate` = 1 / deviation, (batch, channels), are written; `sums` is work space: chunks x 2 x channels. */
void FORWARD(const ELEMENT *x, const float *gamma, const float *beta, ELEMENT *y, float *mean, float *rate, float *sums,
             i64 batch, i64 voxels, i64 channels, double epsilon, double slope, i64 threads) {
    i64 chunks = norm_chunks(voxels);
#pragma omp parallel num_threads(threads)
    for (i64 n = 0; n < batch; n++) { /* image by image: the second pass finds what the first has read in the cache */
        const ELEMENT *from = x + n * voxels * channels;
        ELEMENT *to = y + n * voxels * channels;
        float *m = mean + n * channels, *r = rate + n * channels;
#pragma omp for schedule(static)
        for (i64 k = 0; k < chunks; k++)
            for (i64 c = 0; c < channels; c += LANES) {
                v16 origin = LOAD(from + c), sum = {0}, square = {0};
                for (i64 v = k * CHUNK; v < end_of(k, voxels); v++) {
                    v16 d = LOAD(from + v * channels + c) - origin;
                    sum += d;
                    square += d * d;
                }
                store(sums + (2 * k) * channels + c, sum);
                store(sums + (2 * k + 1) * channels + c, square);
            }
#pragma omp single
        for (i64 c = 0; c < channels; c++) {
            double sum, square;
            total(sums, chunks, channels, c, &sum, &square);
            double shift = sum / voxels, variance = square / voxels - shift * shift;
            m[c] = (float)(VALUE(from[c]) + shift);
            r[c] = (float)(1 / sqrt((variance > 0 ? variance : 0) + epsilon));
        }
#pragma omp for schedule(static)
        for (i64 k = 0; k < chunks; k++)
            for (i64 c = 0; c < channels; c += LANES) {
                v16 centre = load(m + c), scale = load(gamma + c) * load(r + c), offset = load(beta + c);
                for (i64 v = k * CHUNK; v < end_of(k, voxels); v++) {
                    v16 z = scale * (LOAD(from + v * channels + c) - centre) + offset;
                    STORE(to + v * channels + c, choose(z > 0, z, z * (float)slope));
                }
            }
    }
}

/* Gradient of y, `pitch` elements between two voxels -> gradients of x, gamma and beta. `sums` as above, `means` is work
   space of 2 x channels. */
void BACKWARD(const ELEMENT *x, const ELEMENT *gradient, i64 pitch, const float *gamma, const float *beta,
              const float *mean, const float *rate, ELEMENT *to, float *gamma_gradient, float *beta_gradient,
              float *sums, float *means, i64 batch, i64 voxels, i64 channels, double slope, i64 threads) {
    i64 chunks = norm_chunks(voxels);
    memset(gamma_gradient, 0, channels * sizeof(float));
    memset(beta_gradient, 0, channels * sizeof(float));
#pragma omp parallel num_threads(threads)
    for (i64 n = 0; n < batch; n++) {
        const ELEMENT *from = x + n * voxels * channels, *back = gradient + n * voxels * pitch;
        ELEMENT *image = to + n * voxels * channels;
        const float *m = mean + n * channels, *r = rate + n * channels;
#pragma omp for schedule(static)
        for (i64 k = 0; k < chunks; k++)
            for (i64 c = 0; c < channels; c += LANES) {
                v16 centre = load(m + c), inverse = load(r + c), scale = load(gamma + c), offset = load(beta + c);
                v16 plain = {0}, along = {0};
                for (i64 v = k * CHUNK; v < end_of(k, voxels); v++) {
                    v16 h = inverse * (LOAD(from + v * channels + c) - centre), g = LOAD(back + v * pitch + c);
                    g = choose(scale * h + offset > 0, g, g * (float)slope);
                    plain += g;
                    along += g * h;
                }
                store(sums + (2 * k) * channels + c, plain);
                store(sums + (2 * k + 1) * channels + c, along);
            }
#pragma omp single
        for (i64 c = 0; c < channels; c++) {
            double plain, along;
            total(sums, chunks, channels, c, &plain, &along);
            beta_gradient[c] += (float)plain;
            gamma_gradient[c] += (float)along;
            means[c] = (float)(plain / voxels);
            means[channels + c] = (float)(along / voxels);
        }
#pragma omp for schedule(static)
        for (i64 k = 0; k < chunks; k++)
            for (i64 c = 0; c < channels; c += LANES) {
                v16 centre = load(m + c), inverse = load(r + c), scale = load(gamma + c), offset = load(beta + c);
                v16 plain = load(means + c), along = load(means + channels + c);
                for (i64 v = k * CHUNK; v < end_of(k, voxels); v++) {
                    v16 h = inverse * (LOAD(from + v * channels + c) - centre), g = LOAD(back + v * pitch + c);
                    g = choose(scale * h + offset > 0, g, g * (float)slope);
                    STORE(image + v * channels + c, scale * inverse * (g - plain - along * h));
                }
            }
    }
}
