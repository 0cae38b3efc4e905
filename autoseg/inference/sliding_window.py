"""Predict an image that is larger than the network's patch: overlapping windows, weighted towards their centres.

Each window is seen in all its mirrored forms and by all networks; what they say is averaged as logits, in float32.
Windows and mirrored forms are cut into batches of a bounded number of voxels; the batches do not change the result.

Source: Isensee et al. 2021 (nnU-Net), Methods, "Inference"; positions and Gaussian as in nnU-Net v2.8.1, but its sums
in half precision, which quantise the logits near the image's border, are not imitated.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import DeviceError, ModelError, OptionError
from autoseg.progress import meter, say
from planners.plan import Configuration

STEP = 0.5  # windows overlap by half; nnU-Net v2.8.1
SIGMA_FRACTION = 1 / 8  # width of the Gaussian in window edges; nnU-Net v2.8.1
CPU_BATCH_VOXELS = 2**20
"""Voxels of one batch: about 0.6 GB of feature maps in float32. One window of 40×56×40 at a time costs twice the
processor time of eight, because the deep stages read their weights again for a few voxels; more than eight gain nothing
(measured 2026-11, 2 cores, benchmarks/inference.py)."""
GPU_BATCH_VOXELS = 2**23
"""Assumption: about 3 GB of feature maps in half precision; halved where the device is full."""
USUAL_OUTPUTS = (
    32  # the width of a U-Net's first stage: a network with more outputs takes more memory per voxel than usual
)
GPU_KEEP_FREE = 0.5  # assumption: at most half of the free device memory for image and sums, the rest for the network

Flip = Callable[[Tensor, tuple[int, ...]], Tensor]
Progress = Callable[[int], None]


def flip_maps(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror maps along spatial axes, counted within the network's own dimensions (2D: 0 = y, 1 = x).

    Args:
        maps: (…, z, y, x) or (…, y, x) with one leading dimension K.
        axes: which of the axes after the first dimension to mirror.
    """
    return maps.flip([axis + 1 for axis in axes]) if axes else maps


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How windows are laid and what is done with each.

    Attributes:
        mirror: see every window in all combinations of the training's mirror axes.
        step: distance of two windows as a fraction of the window's edge, above 0 and at most 1.
        flip: turns the maps (K, spatial axes) of a mirrored window back; a target whose maps are more than scalars
            (vectors, affinities) brings its own.
        batch_voxels: voxels of one batch, or None for what suits the device.
    """

    mirror: bool = True
    step: float = STEP
    flip: Flip = flip_maps
    batch_voxels: int | None = None


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

    def pad(self, image_CZYX: Tensor) -> Tensor:
        """Put zeros around an image: what is missing to one window, and the context of the outermost windows."""
        context = [patch - output for patch, output in zip(self.patch, self.output, strict=True)]
        low = [fill + around // 2 for fill, around in zip(self.fill, context, strict=True)]
        total = [self.extent[axis] - self.shape[axis] + context[axis] for axis in range(3)]
        pads = [pad for axis in (2, 1, 0) for pad in (low[axis], total[axis] - low[axis])]  # torch: last axis first
        return nn.functional.pad(image_CZYX, pads) if any(pads) else image_CZYX

    def total_weight(self) -> Tensor:
        """Add up the weights of all windows over ``extent`` (float32): products of sums, as weights are products."""
        sums = []
        for starts, edge, extent in zip(self.starts, self.output, self.extent, strict=True):
            along = torch.zeros(extent)
            for start in starts:
                along[start : start + edge] += gaussian_profile(edge)
            sums.append(along)
        return sums[0][:, None, None] * sums[1][:, None] * sums[2]


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


@torch.inference_mode()
def predict_logits(
    networks: Sequence[nn.Module],
    image_CZYX: Tensor,
    configuration: Configuration,
    compute: Compute,
    options: WindowOptions | None = None,
    what: str | None = None,
) -> Tensor:
    """Run an image through one or several networks of one configuration and average their logits.

    Args:
        networks: on the device of ``compute``, one per fold; put into evaluation mode.
        image_CZYX: preprocessed image, float32, channels, z, y, x.
        configuration: of the networks.
        compute: device and precision; the sums are float32 whatever the precision.
        options: mirroring, overlap, batch; None for the defaults.
        what: a phrase for the progress shown while it runs, or None to show none.

    Returns:
        float32 (K, z, y, x) in main memory, of the image's shape.

    Raises:
        DeviceError: the device's memory does not hold a single window.
        ModelError: the logits are not finite even in float32.
    """
    options = options or WindowOptions()
    for network in networks:
        network.eval()
    layout = lay_windows(image_CZYX.shape[1:], configuration, options.step)
    logits = _Passes(networks, configuration, compute, options).run(layout, image_CZYX, what)
    if bool(torch.isfinite(logits).all()):
        return logits
    if compute.precision != "fp32":
        say(f"  logits not finite in {compute.precision}; this image again in fp32")
        exact = dataclasses.replace(compute, precision="fp32")
        return predict_logits(networks, image_CZYX, configuration, exact, options, what)
    raise ModelError(
        f"the network of {configuration.name} gives logits that are not finite for this image. "
        "Look for extreme or non-finite voxels in the image; if all images are like this, the weights are damaged"
    )


class _Passes:
    """The passes of one image through the networks: every window in every mirrored form, in batches."""

    def __init__(
        self, networks: Sequence[nn.Module], configuration: Configuration, compute: Compute, options: WindowOptions
    ) -> None:
        self.networks, self.configuration, self.compute, self.options = networks, configuration, compute, options
        self.forms = mirrored_forms(configuration, options.mirror)
        self.flat = configuration.dimensions == 2
        usual = CPU_BATCH_VOXELS if compute.device == "cpu" else GPU_BATCH_VOXELS
        usual = usual * USUAL_OUTPUTS // max(configuration.target.num_outputs, USUAL_OUTPUTS)
        self.batch = max((options.batch_voxels or usual) // math.prod(configuration.patch_size), 1)

    def run(self, layout: WindowLayout, image_CZYX: Tensor, what: str | None) -> Tensor:
        """Give the weighted mean of all passes on the image's grid, in main memory."""
        num_outputs = self.configuration.target.num_outputs
        place = self._place_of_sums(layout, image_CZYX, num_outputs)
        image_CZYX = layout.pad(image_CZYX).to(place)
        sums_KZYX = torch.zeros((num_outputs, *layout.extent), device=place)
        weight_ZYX = (gaussian(layout.output) / (len(self.forms) * len(self.networks))).to(place)
        passes = [(start, form) for start in layout.windows for form in self.forms]
        tick = meter(len(passes), what) if what else None
        for part, logits in self._answers(image_CZYX, layout.patch, passes):
            for (start, form), logits_K in zip(part, logits.to(place), strict=True):
                turned = self.options.flip(logits_K, form)
                window = (slice(None), *_box(start, layout.output))
                sums_KZYX[window].addcmul_(turned.unsqueeze(1) if self.flat else turned, weight_ZYX)
            if tick:
                tick(len(part))
        if tick:
            tick(0)
        inside = (slice(None), *layout.crop)
        return sums_KZYX[inside].div_(layout.total_weight()[layout.crop].to(place)).to("cpu").contiguous()

    def _answers(
        self, image_CZYX: Tensor, patch: tuple[int, ...], passes: list["_Pass"]
    ) -> Iterator[tuple[list["_Pass"], Tensor]]:
        """Run the passes in order, as many at once as memory holds; give each batch with its logits (float32).

        Batches are powers of two, so that images of all sizes lead to few different shapes: cuDNN tunes each once.
        """
        done = 0
        while done < len(passes):
            most = min(self.batch, len(passes) - done)
            part = passes[done : done + 2 ** (most.bit_length() - 1)]
            try:
                logits = self._forward([flip_maps(self._cut(image_CZYX, start, patch), form) for start, form in part])
            except torch.OutOfMemoryError:
                self._halve(len(part), patch)
                continue
            yield part, logits
            done += len(part)

    def _cut(self, image_CZYX: Tensor, start: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
        window = image_CZYX[(slice(None), *_box(start, patch))]
        return window.squeeze(1) if self.flat else window

    def _forward(self, windows: list[Tensor]) -> Tensor:
        batch = computing.place(torch.stack(windows), self.compute)
        with computing.autocast(self.compute):
            total = self.networks[0](batch)[0].float()
            for network in self.networks[1:]:
                total += network(batch)[0]
        return total

    def _halve(self, tried: int, patch: tuple[int, ...]) -> None:
        if tried == 1:
            window = " × ".join(map(str, patch))
            raise DeviceError(
                f"{self.compute.device} has not enough free memory for one window of {window} voxels of "
                f"{self.configuration.name}. Stop other programs on it, or predict with --device cpu"
            ) from None
        torch.cuda.empty_cache()
        self.batch = max(tried // 2, 1)

    def _place_of_sums(self, layout: WindowLayout, image_CZYX: Tensor, num_outputs: int) -> torch.device:
        """Keep image and sums on the device where they leave room for the network, else in main memory."""
        device = torch.device(self.compute.device)
        if device.type != "cuda":
            return torch.device("cpu")
        needed = 4 * (math.prod(layout.extent) * (num_outputs + 1) + math.prod(image_CZYX.shape))
        return device if needed < GPU_KEEP_FREE * torch.cuda.mem_get_info(device)[0] else torch.device("cpu")


_Pass = tuple[tuple[int, ...], tuple[int, ...]]
"""Start of the window, axes it is mirrored along."""


def _box(start: tuple[int, ...], edges: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(low, low + edge) for low, edge in zip(start, edges, strict=True))
