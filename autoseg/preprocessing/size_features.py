"""Describe how large the things in an image are, without knowing what they are: by lengths that grow with the image.

Planes of the image are parted into brighter and darker than their surroundings, and eight lengths are measured in mm:
of the runs of each part along rows and columns. The first feature is the mean of their logarithms, the others are by
how much each differs from it. So where all things in an image are twice as large, the first feature grows by ln 2 and
the others stay, and a sum of the first and any weighted others is a size that grows with the image
(``planners.diameter`` fits the weights). That holds for things small against ``SURROUNDINGS``.

Neither the sign nor the scale of the intensities matters: bright on dark is as dark on bright.

Chosen on the 244 images of the Data Science Bowl 2018 (2026-11) by the standard deviation of ln(diameter / estimate),
each image left out once: 0.18 to 0.19 for these eight lengths. Power spectra, autocorrelation, energies of differences
of Gaussians, extrema in scale space, and runs above one threshold gave 0.20 to 0.40; twice as many lengths 0.16 to
0.19.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy

from autoseg.preprocessing.operators import axis_operator

LONG_AXIS, BLOCK = 2048, 1024
"""Of an axis of more than so many voxels two blocks are looked at, around a quarter and three quarters of it."""

PLANE_VOXELS = 1 << 20
"""Voxels of all planes of a volume together; one plane is always looked at."""

SAMPLE_VOXELS = 1 << 17
"""Voxels for the statistics of intensities, and for the runs along one axis: as precise as is needed (a percentile to
within 0.1) in a few milliseconds each."""

CLIP = (0.5, 99.5)
"""Percentiles that intensities are clipped to: single glaring voxels hold no sizes."""

SURROUNDINGS = 32
"""Deviation of the Gaussian, in voxels as read, whose blur is what a voxel is compared with. In voxels, because what is
some hundred voxels across is mostly light and shade, or a cluster. The deviation above was 0.21, 0.19, 0.18, 0.20 with
16, 24, 32, 48; 0.26 with none; 0.24 with four times the scale of the image's own detail, which grows with the image."""

REDUCED = 8
"""The surroundings are blurred on planes reduced by this factor."""

RUN_QUANTILES = (0.25, 0.5, 0.75)
"""Of the runs of one part, each run counted as often as it is long."""

NUM_FEATURES = 1 + 2 * (1 + len(RUN_QUANTILES))

VERSION = 1
"""To be raised with every change that gives an image other features: what was measured and stored by them is then made
again."""

SHORTEST_SIDE = 16
"""Voxels of a plane's shorter side that sizes are looked for in."""


def size_features(image_CZYX: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Describe the sizes in an image.

    Args:
        image_CZYX: channels, z, y, x; any number type and order of axes. Voxels that are not finite count as their
            channel's smallest.
        spacing_mm: z, y, x. Planes across the axis of largest spacing are looked at (the first of equals).

    Returns:
        ``NUM_FEATURES`` numbers, six significant digits; none where the image shows nothing: it is constant, or too
        small to have sizes.
    """
    planes_CZYX, steps = _planes(image_CZYX, spacing_mm)
    if min(planes_CZYX.shape[2:]) < SHORTEST_SIDE:
        return ()
    grey = _grey(planes_CZYX)
    if grey is None:
        return ()
    grey, steps = _square_pixels(grey, steps)
    lengths = np.array(_run_lengths(grey - _surroundings(grey), steps))
    if not lengths.size:
        return ()
    middle = float(lengths.mean())
    return tuple(float(f"{value:.6g}") for value in (middle, *(lengths - middle)))


def _planes(image_CZYX: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, tuple[float, float]]:
    """Choose planes of an image (channels × planes × y × x, float32, finite), and give the steps within them in mm."""
    across = int(np.argmax(spacing_mm))
    image = np.moveaxis(image_CZYX, 1 + across, 1)
    rows, columns = (_blocks(length) for length in image.shape[2:])
    area = (rows[0].stop - rows[0].start) * (columns[0].stop - columns[0].start) * len(rows) * len(columns)
    count = min(image.shape[1], max(1, PLANE_VOXELS // max(1, area)))
    chosen = ((np.arange(count) + 0.5) * image.shape[1] / count).astype(int)
    parts = [image[:, chosen, part_y, part_x] for part_y in rows for part_x in columns]
    planes = np.concatenate(parts, axis=1).astype(np.float32)
    for channel in planes:
        good = np.isfinite(channel)
        if not good.all():
            channel[~good] = channel[good].min() if good.any() else 0
    within = [step for axis, step in enumerate(spacing_mm) if axis != across]
    return planes, (within[0], within[1])


def _blocks(length: int) -> list[slice]:
    if length <= LONG_AXIS:
        return [slice(0, length)]
    return [slice(start, start + BLOCK) for start in (length // 4 - BLOCK // 2, 3 * length // 4 - BLOCK // 2)]


def _grey(planes_CZYX: np.ndarray) -> np.ndarray | None:
    """Give what the channels share (their first principal component, each of unit deviation), from 0 to 1.

    Returns:
        planes × y × x, float32; None where all channels are constant.
    """
    flat = planes_CZYX.reshape(len(planes_CZYX), -1)
    sample = flat[:, :: _stride(flat.shape[1])].astype(np.float64)
    low, high = np.percentile(sample, CLIP, axis=1)
    used = high > low
    if not used.any():  # things so small that the percentiles miss them
        low, high = sample.min(axis=1), sample.max(axis=1)
        used = high > low
    if not used.any():
        return None
    low, high = low[used, None], high[used, None]
    sample = np.clip((sample[used] - low) / (high - low), 0, 1)
    if len(sample) == 1:
        weights = np.ones(1)
    else:
        deviation = sample.std(axis=1)
        standard = (sample - sample.mean(axis=1, keepdims=True)) / deviation[:, None]
        weights = np.linalg.eigh(standard @ standard.T)[1][:, -1] / deviation
    grey = np.zeros(flat.shape[1], dtype=np.float32)
    for channel, weight, least, most in zip(flat[used], weights, low[:, 0], high[:, 0], strict=True):
        part = np.clip(channel, np.float32(least), np.float32(most))
        part -= np.float32(least)
        part *= np.float32(weight / (most - least))
        grey += part
    least, most = grey.min(), grey.max()
    return ((grey - least) / (most - least)).reshape(planes_CZYX.shape[1:]) if most > least else None


def _square_pixels(grey_ZYX: np.ndarray, steps: tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
    """Average along the finer axis of planes such that the steps differ less than 1.5 times, if it is long enough."""
    ratio = max(steps) / min(steps)
    axis = 1 + int(np.argmin(steps))
    factor = min(math.floor(ratio + 0.5), grey_ZYX.shape[axis] // SHORTEST_SIDE)
    if factor < 2:
        return grey_ZYX, steps
    grey = np.moveaxis(grey_ZYX, axis, -1)
    length = grey.shape[-1] // factor
    grey = grey[..., : length * factor].reshape(*grey.shape[:-1], length, factor).mean(axis=-1)
    coarser = (steps[0] * factor, steps[1]) if axis == 1 else (steps[0], steps[1] * factor)
    return np.ascontiguousarray(np.moveaxis(grey, -1, axis)), coarser


def _surroundings(grey_ZYX: np.ndarray) -> np.ndarray:
    """Blur planes by ``SURROUNDINGS``; near the frame, as if they went on mirrored."""
    ends = [(0, 0)] + [(0, -size % REDUCED) for size in grey_ZYX.shape[1:]]
    padded = np.pad(grey_ZYX, ends, mode="symmetric")
    planes, y, x = padded.shape
    reduced = padded.reshape(planes, y // REDUCED, REDUCED, x // REDUCED, REDUCED).mean(axis=(2, 4))
    sigma = SURROUNDINGS / REDUCED
    blurred = scipy.ndimage.gaussian_filter(reduced, (0, sigma, sigma), mode="reflect", truncate=3)
    for axis, size in ((1, y), (2, x)):
        blurred = axis_operator(blurred.shape[axis], size, order=1).apply(blurred, axis)
    return blurred[:, : grey_ZYX.shape[1], : grey_ZYX.shape[2]]


def _run_lengths(difference_ZYX: np.ndarray, steps: tuple[float, float]) -> list[float]:
    """Measure the runs above and below a threshold along rows and columns.

    Returns:
        For the part of shorter runs, then for the other: the logarithms of the mean run and of ``RUN_QUANTILES``; none
        where there is one part only.
    """
    above = difference_ZYX > _threshold(difference_ZYX)
    runs: list[list[np.ndarray]] = [[], []]
    for axis, step in ((1, steps[0]), (2, steps[1])):
        lines = np.moveaxis(above, axis, -1)
        lines = lines.reshape(-1, lines.shape[-1])
        lines = lines[:: _stride(lines.size)]
        # a line of zeros and ones, and a 2 that ends its last run
        marked = np.full((lines.shape[0], lines.shape[1] + 1), 2, dtype=np.int8)
        marked[:, :-1] = lines
        flat = marked.reshape(-1)
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        lengths, values = np.diff(ends, prepend=0), flat[ends - 1]
        for part in (0, 1):
            runs[part].append(lengths[values == part] * step)
    parts = [np.sort(np.concatenate(found)) for found in runs]
    if not all(len(found) for found in parts):
        return []
    described = []
    for found in parts:
        quantiles = np.interp(np.array(RUN_QUANTILES) * found.sum(), np.cumsum(found) - found / 2, found)
        described.append([math.log(found.mean()), *np.log(quantiles).tolist()])
    return [value for row in sorted(described) for value in row]


def _threshold(values_ZYX: np.ndarray) -> float:
    """Find the threshold that parts values into the two groups that differ most (Otsu 1979)."""
    flat = values_ZYX.reshape(-1)
    sample = flat[:: _stride(flat.size)]
    low, high = np.percentile(sample, CLIP)
    if low == high:
        low, high = sample.min(), sample.max()
    counts, edges = np.histogram(np.clip(sample, low, high), bins=256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * middles)
    over = len(sample) - below
    distance = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(over, 1)
    between = below * over * distance**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    # all thresholds in an empty gap are equally good: their middle treats bright and dark alike
    return float(edges[1:-1][best].mean())


def _stride(count: int) -> int:
    return max(1, -(-count // SAMPLE_VOXELS))
