"""Where the windows of an image lie, and how much each of their voxels weighs.

Source: rules of nnU-Net v2.8.1 for positions and Gaussian (Isensee et al. 2021, Methods, "Inference").
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.errors import OptionError
from planners.plan import Configuration

STEP = 0.5  # windows overlap by half; nnU-Net v2.8.1
SIGMA_FRACTION = 1 / 8  # width of the Gaussian in window edges; nnU-Net v2.8.1


def window_positions(size: int, window: int, step: float = STEP) -> tuple[int, ...]:
    """Lay windows along one axis so that they cover it evenly.

    Args:
        size: voxels of the axis; at least ``window``.
        window: voxels of the window.
        step: wished distance of two windows as a fraction of ``window``; the real one is at most this.

    Returns:
        First voxel of each window; the first is 0, the last ends with the axis.

    Source: rule of nnU-Net v2.8.1.
    """
    if size <= window:
        return (0,)
    count = math.ceil((size - window) / (window * step)) + 1
    return tuple(round(index * (size - window) / (count - 1)) for index in range(count))


def gaussian_profile(size: int) -> Tensor:
    """Weight the voxels along one edge of a window: 1 at its centre (``size // 2``), falling to both ends.

    Returns:
        float32 of ``size`` entries. The weight of a voxel is the product over its axes; the smallest possible, in the
        corner of a 3D window, is exp(-24) = 4e-11. That is far from what float32 rounds to zero, so that a corner that
        only one window covers keeps its value, and so the weights need no floor.
    """
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.exp(-0.5 * (distance / (size * SIGMA_FRACTION)) ** 2).float()


def gaussian(size: Sequence[int]) -> Tensor:
    """Weight the voxels of a window: the product of ``gaussian_profile`` over its axes (float32, 1 at the centre)."""
    weights = torch.ones(())
    for edge in size:
        weights = weights[..., None] * gaussian_profile(edge)
    return weights


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """Where the windows of one image lie; all tuples are z, y, x.

    The image is padded with zeros to at least one window, and by the context that the network sees beyond its output.

    Attributes:
        shape: of the image.
        patch: what the network sees at once.
        output: what it answers for; smaller than ``patch`` where its convolutions are not padded.
        starts: per axis, first voxel of each window's output in the padded grid (context not counted).
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    output: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Voxels that the windows' outputs cover: the image, or one window where that is larger."""
        return tuple(max(size, edge) for size, edge in zip(self.shape, self.output, strict=True))

    @property
    def fill(self) -> tuple[int, ...]:
        """Zeros in front of the image along each axis, context not counted; a surplus voxel goes behind."""
        return tuple((extent - size) // 2 for extent, size in zip(self.extent, self.shape, strict=True))

    @property
    def crop(self) -> tuple[slice, ...]:
        """Where the image lies within ``extent``."""
        return tuple(slice(low, low + size) for low, size in zip(self.fill, self.shape, strict=True))

    @property
    def windows(self) -> list[tuple[int, ...]]:
        """Starts of all windows, z slowest."""
        return list(itertools.product(*self.starts))

    @property
    def before(self) -> tuple[int, ...]:
        """Zeros in front of the image along each axis, context counted."""
        return tuple(
            fill + (patch - output) // 2 for fill, patch, output in zip(self.fill, self.patch, self.output, strict=True)
        )

    @property
    def padded(self) -> tuple[int, ...]:
        """Voxels of the padded image."""
        return tuple(
            extent + patch - output for extent, patch, output in zip(self.extent, self.patch, self.output, strict=True)
        )

    def pad(self, image_CZYX: Tensor) -> Tensor:
        """Put zeros around an image: what is missing to one window, and the context of the outermost windows."""
        behind = [total - size - low for total, size, low in zip(self.padded, self.shape, self.before, strict=True)]
        pads = [pad for axis in (2, 1, 0) for pad in (self.before[axis], behind[axis])]  # torch: last axis first
        return nn.functional.pad(image_CZYX, pads) if any(pads) else image_CZYX

    def total_weight(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Add up the weights of all windows over ``extent`` (float32): products of sums, as weights are products.

        Args:
            start, stop: slices along z; default all.
        """
        sums = []
        for starts, edge, extent in zip(self.starts, self.output, self.extent, strict=True):
            along = torch.zeros(extent)
            for begin in starts:
                along[begin : begin + edge] += gaussian_profile(edge)
            sums.append(along)
        return sums[0][start:stop, None, None] * sums[1][:, None] * sums[2]


def lay_windows(shape: Sequence[int], configuration: Configuration, step: float = STEP) -> WindowLayout:
    """Lay the windows of one image: a 3D configuration in all axes, a 2D one in every slice.

    Args:
        shape: of the preprocessed image, z, y, x.
        configuration: gives patch and output size.
        step: see ``window_positions``.

    Raises:
        OptionError: ``step`` leaves gaps between the windows, or is not above zero.
    """
    if not 0 < step <= 1:
        raise OptionError(f"step is {step}; windows overlap only with a step above 0 and at most 1")
    flat = 3 - configuration.dimensions
    output = (1,) * flat + configuration.output_size
    extent = [max(size, edge) for size, edge in zip(shape, output, strict=True)]
    starts = [tuple(range(extent[axis])) for axis in range(flat)]
    starts += [window_positions(extent[axis], output[axis], step) for axis in range(flat, 3)]
    return WindowLayout(shape=tuple(shape), patch=configuration.patch_shape, output=output, starts=tuple(starts))


def mirrored_forms(configuration: Configuration, mirror: bool = True) -> list[tuple[int, ...]]:
    """List the sets of axes to mirror: all subsets of the training's mirror axes, the empty one first."""
    axes = configuration.training.mirror_axes if mirror else ()
    return [form for count in range(len(axes) + 1) for form in itertools.combinations(axes, count)]
