"""Predict an image that is larger than the network's patch: overlapping windows, weighted towards their centres.

Each window is seen in all its mirrored forms and by all networks; what they say is averaged as logits, in float32.
Windows and mirrored forms are cut into batches of a bounded number of voxels; the batches do not change the result.

Source: Isensee et al. 2021 (nnU-Net), Methods, "Inference"; positions and Gaussian as in nnU-Net v2.8.1, but its sums
in half precision, which quantise the logits near the image's border, are not imitated.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import DeviceError, ModelError
from autoseg.inference.each_memory import EachNetwork, fits_together
from autoseg.inference.windows import STEP, WindowLayout, gaussian, lay_windows, mirrored_forms
from autoseg.progress import meter, say
from planners.plan import Configuration

CPU_BATCH_VOXELS = 2**20
"""Voxels of one batch: about 0.6 GB of feature maps in float32. One window of 40×56×40 at a time costs twice the
processor time of eight, because the deep stages read their weights again for a few voxels; more than eight gain nothing
(measured 2026-11, 2 cores, benchmarks/inference.py)."""
GPU_BATCH_VOXELS = 2**23
"""Assumption: about 3 GB of feature maps in half precision; halved where the device is full."""
USUAL_OUTPUTS = 32
"""Width of a U-Net's first stage: a network with more outputs than that takes more memory per voxel than usual."""
LARGEST_HALF = 65504.0  # of float16
GPU_KEEP_FREE = 0.5  # assumption: at most half of the free device memory for image and sums, the rest for the network

Flip = Callable[[Tensor, tuple[int, ...]], Tensor]


def flip_maps(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror maps along spatial axes, counted within the network's own dimensions (2D: 0 = y, 1 = x).

    Args:
        maps: (K, z, y, x) or (K, y, x).
        axes: which of the axes after K to mirror.
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
        each: keep what every network says alone (``predict_each``); takes a float32 map per network meanwhile,
            or twice the time where memory does not hold them (``each_memory``).
    """

    mirror: bool = True
    step: float = STEP
    flip: Flip = flip_maps
    batch_voxels: int | None = None
    each: bool = False


@torch.inference_mode()
def predict_logits(
    networks: Sequence[nn.Module],
    image_CZYX: Tensor,
    configuration: Configuration,
    compute: Compute,
    options: WindowOptions | None = None,
    what: str | None = None,
    previous_ZYX: Tensor | None = None,
) -> Tensor:
    """Run an image through one or several networks of one configuration and average their logits.

    Args:
        networks: on the device of ``compute``, one per fold; put into evaluation mode.
        image_CZYX: preprocessed image, float32, channels, z, y, x.
        configuration: of the networks.
        compute: device and precision; the sums are float32 whatever the precision.
        options: mirroring, overlap, batch; None for the defaults.
        what: a phrase for the progress shown while it runs, or None to show none.
        previous_ZYX: the previous segmentation where the configuration is a cascade: inner class indices on the same
            grid. Windows see it as one channel per foreground class.

    Returns:
        float32 (K, z, y, x) in main memory, of the image's shape.

    Raises:
        DeviceError: the device's memory does not hold a single window.
        ModelError: the logits are not finite even in float32.
    """
    return predict_each(networks, image_CZYX, configuration, compute, options, what, previous_ZYX)[0]


@torch.inference_mode()
def predict_each(
    networks: Sequence[nn.Module],
    image_CZYX: Tensor,
    configuration: Configuration,
    compute: Compute,
    options: WindowOptions | None = None,
    what: str | None = None,
    previous_ZYX: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run an image through networks as ``predict_logits`` does; where ``options.each`` is set, tell them apart.

    Returns:
        The mean, bit for bit that of ``predict_logits``; and per network its own logits, float16, finite.

    Raises:
        DeviceError, ModelError: as of ``predict_logits``.
    """
    options = options or WindowOptions()
    assert (previous_ZYX is None) == (configuration.num_previous_channels == 0), f"inputs of {configuration.name}"
    for network in networks:
        network.eval()
    layout = lay_windows(image_CZYX.shape[1:], configuration, options.step)
    logits, alone = _Passes(networks, configuration, compute, options).run(layout, image_CZYX, previous_ZYX, what)
    if bool(torch.isfinite(logits).all()):
        return logits, alone
    if compute.precision != "fp32":
        say(f"  logits not finite in {compute.precision}; this image again in fp32")
        exact = dataclasses.replace(compute, precision="fp32")
        return predict_each(networks, image_CZYX, configuration, exact, options, what, previous_ZYX)
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

    def run(
        self, layout: WindowLayout, image_CZYX: Tensor, previous_ZYX: Tensor | None, what: str | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Give the weighted mean of all passes on the image's grid, in main memory; and that of every network alone."""
        seen, count = _Seen(layout, image_CZYX, previous_ZYX), len(self.networks)
        together = self.options.each and self._fits_together(seen)
        sums = self._sums(self.networks, seen, what, each=together)
        mean = self._weighted(sums[0], seen).to("cpu").contiguous()
        alone = []
        while len(sums) > 1:  # one network at a time: its sums are given back as soon as they are rounded
            alone.append(_half(self._weighted(sums.pop(1), seen, count)))
        if together or not self.options.each or not bool(torch.isfinite(mean).all()):
            return mean, alone
        sums.clear()
        say(f"  {self.configuration.name}: memory holds no sums of {count} networks at once; one after the other")
        for number, network in enumerate(self.networks, 1):
            (own,) = self._sums([network], seen, what and f"{what}, network {number} of {count}")
            alone.append(_half(self._weighted(own, seen, count)))
            del own
        return mean, alone

    def _fits_together(self, seen: "_Seen") -> bool:
        """Tell whether the sums of all networks at once fit, on the device or in main memory."""
        num_outputs, count = self.configuration.target.num_outputs, len(self.networks)
        if self._place_of_sums(seen, num_outputs * (1 + count)).type != "cpu":
            return True
        return fits_together(EachNetwork(num_networks=count, voxels=num_outputs * math.prod(seen.layout.extent)))

    def _sums(
        self, networks: Sequence[nn.Module], seen: "_Seen", what: str | None, *, each: bool = False
    ) -> list[Tensor]:
        """Add up the weighted logits of all passes over the windows' extent: of all networks, then of each."""
        layout, num_outputs = seen.layout, self.configuration.target.num_outputs
        num_sums = 1 + (len(networks) if each else 0)
        place = self._place_of_sums(seen, num_outputs * num_sums)
        inputs = _Inputs(self.configuration, *seen, place)
        sums = [torch.zeros((num_outputs, *layout.extent), device=place) for _ in range(num_sums)]
        weight_ZYX = (gaussian(layout.output) / (len(self.forms) * len(self.networks))).to(place)
        passes = [(start, form) for start in layout.windows for form in self.forms]
        tick = meter(len(passes), what) if what else None
        for part, answers in self._answers(networks, inputs, passes, each=each):
            for sum_KZYX, logits in zip(sums, answers, strict=True):
                for (start, form), logits_K in zip(part, logits.to(place), strict=True):
                    turned = self.options.flip(logits_K, form)
                    window = (slice(None), *_box(start, layout.output))
                    sum_KZYX[window].addcmul_(turned.unsqueeze(1) if self.flat else turned, weight_ZYX)
            if tick:
                tick(len(part))
        if tick:
            tick(0)
        return sums

    @staticmethod
    def _weighted(sum_KZYX: Tensor, seen: "_Seen", share: int = 1) -> Tensor:
        """Divide sums by their weights, in place, where the image is; give that part."""
        total = seen.layout.total_weight()[seen.layout.crop].to(sum_KZYX.device)
        return sum_KZYX[(slice(None), *seen.layout.crop)].div_(total / share)

    def _answers(
        self, networks: Sequence[nn.Module], inputs: "_Inputs", passes: list["_Pass"], *, each: bool
    ) -> Iterator[tuple[list["_Pass"], list[Tensor]]]:
        """Run the passes in order, as many at once as memory holds; give each batch with its logits (float32).

        The first are those of all networks added up; after them, if asked for, come those of each.

        Batches are powers of two, so that images of all sizes lead to few different shapes: cuDNN tunes each once.
        """
        done = 0
        while done < len(passes):
            most = min(self.batch, len(passes) - done)
            part = passes[done : done + 2 ** (most.bit_length() - 1)]
            try:
                answers = self._forward(networks, [inputs.window(start, form) for start, form in part], each=each)
            except torch.OutOfMemoryError:
                self._halve(len(part), inputs.patch)
                continue
            yield part, answers
            done += len(part)

    def _forward(self, networks: Sequence[nn.Module], windows: list[Tensor], *, each: bool) -> list[Tensor]:
        batch = computing.place(torch.stack(windows), self.compute)
        single: list[Tensor] = []
        with computing.autocast(self.compute):
            total: Tensor | None = None
            for network in networks:
                logits = network(batch)[0]
                if each:
                    single.append(logits.float().clone())
                if total is None:
                    total = logits.float()
                else:
                    total += logits
        assert total is not None, "at least one network"
        return [total, *single]

    def _halve(self, tried: int, patch: tuple[int, ...]) -> None:
        if tried == 1:
            window = " × ".join(map(str, patch))
            raise DeviceError(
                f"{self.compute.device} has not enough free memory for one window of {window} voxels of "
                f"{self.configuration.name}. Stop other programs on it, or predict with --device cpu"
            ) from None
        torch.cuda.empty_cache()
        self.batch = max(tried // 2, 1)

    def _place_of_sums(self, seen: "_Seen", num_outputs: int) -> torch.device:
        """Keep image and sums on the device where they leave room for the network, else in main memory."""
        device = torch.device(self.compute.device)
        if device.type != "cuda":
            return torch.device("cpu")
        needed = 4 * (math.prod(seen.layout.extent) * (num_outputs + 1) + math.prod(seen.image_CZYX.shape))
        return device if needed < GPU_KEEP_FREE * torch.cuda.mem_get_info(device)[0] else torch.device("cpu")


class _Seen(NamedTuple):
    """What all passes of one image share."""

    layout: WindowLayout
    image_CZYX: Tensor
    previous_ZYX: Tensor | None


def _half(logits: Tensor) -> Tensor:
    return logits.clamp_(-LARGEST_HALF, LARGEST_HALF).half().to("cpu").contiguous()


class _Inputs:
    """What the network sees of one image: windows of its channels and of the previous segmentation, mirrored.

    The previous segmentation is kept as one map of classes; its channels exist per window only.
    """

    def __init__(
        self,
        configuration: Configuration,
        layout: WindowLayout,
        image_CZYX: Tensor,
        previous_ZYX: Tensor | None,
        place: torch.device,
    ) -> None:
        self.patch, self.flat = layout.patch, configuration.dimensions == 2
        self.image_CZYX = layout.pad(image_CZYX).to(place)
        if previous_ZYX is not None and previous_ZYX.dtype != torch.uint8:
            previous_ZYX = previous_ZYX.to(torch.int32)  # torch compares and pads no wider unsigned integers
        self.previous_CZYX = None if previous_ZYX is None else layout.pad(previous_ZYX[None]).to(place)
        self.swap_axis = configuration.training.mirror_swap_axis
        self.classes = list(range(1, configuration.num_previous_channels + 1))
        self.swapped = list(self.classes)
        for first, second in configuration.training.mirror_swaps if self.classes else ():
            self.swapped[first - 1], self.swapped[second - 1] = second, first

    def window(self, start: tuple[int, ...], form: tuple[int, ...]) -> Tensor:
        """Give one window (channels, then the network's own axes), mirrored along the axes of ``form``."""
        box = (slice(None), *_box(start, self.patch))
        window = self.image_CZYX[box]
        if self.previous_CZYX is not None:
            shown = torch.tensor(self.swapped if self.swap_axis in form else self.classes, device=window.device)
            channels = self.previous_CZYX[box] == shown.view(-1, 1, 1, 1)
            window = torch.cat([window, channels.to(window.dtype)])
        return flip_maps(window.squeeze(1) if self.flat else window, form)


_Pass = tuple[tuple[int, ...], tuple[int, ...]]
"""Start of the window, axes it is mirrored along."""


def _box(start: tuple[int, ...], edges: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(low, low + edge) for low, edge in zip(start, edges, strict=True))
