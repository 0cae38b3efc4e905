"""Windows through networks: in all their mirrored forms, as many at once as memory holds.

Windows and mirrored forms are cut into batches of a bounded number of voxels; the batches do not change the result.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg import compute as computing
from autoseg import room
from autoseg.compute import Compute
from autoseg.errors import DeviceError
from autoseg.inference.device_memory import batch_voxels_within, sums_fit
from autoseg.inference.windows import STEP, mirrored_forms
from autoseg.progress import say
from planners.plan import Configuration

CPU_BATCH_VOXELS = 2**18
"""Voxels of one batch, or one window where that is larger: about 100 MB of feature maps in float32. With windows of
40×56×40 (two at once) a process takes 0.63 GB in all; one at once 0.53 GB and a tenth more time, eight at once 1.1 GB
and a seventh less time (measured 2026-11, 2 cores in use by others too)."""
GPU_BATCH_VOXELS = 2**23
"""Assumption: about 3 GB of feature maps in half precision; halved where the device is full."""
USUAL_OUTPUTS = 32
"""Width of a U-Net's first stage: a network with more outputs than that takes more memory per voxel than usual."""
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
        vram_bytes: of the GPU's memory that may be used; None: what is free.
        each: keep what every network says alone (``predict_each``); takes a float32 map per network meanwhile,
            or twice the time where memory does not hold them (``each_memory``).
    """

    mirror: bool = True
    step: float = STEP
    flip: Flip = flip_maps
    batch_voxels: int | None = None
    vram_bytes: int | None = None
    each: bool = False


class Passes:
    """The passes of an image through the networks of one configuration."""

    def __init__(
        self, networks: Sequence[nn.Module], configuration: Configuration, compute: Compute, options: WindowOptions
    ) -> None:
        """Decide how many windows go at once.

        Args:
            networks: on the device of ``compute``, in evaluation mode.
            configuration: of the networks.
            compute: device and precision.
            options: mirroring, batch.
        """
        self.networks, self.configuration, self.compute, self.options = networks, configuration, compute, options
        self.forms = mirrored_forms(configuration, options.mirror)
        self.flat = configuration.dimensions == 2
        usual = CPU_BATCH_VOXELS if compute.device == "cpu" else GPU_BATCH_VOXELS
        usual = usual * USUAL_OUTPUTS // max(configuration.target.num_outputs, USUAL_OUTPUTS)
        if options.vram_bytes is not None and compute.device.startswith("cuda"):
            usual = batch_voxels_within(options.vram_bytes, usual)
        self.batch = max((options.batch_voxels or usual) // math.prod(configuration.patch_size), 1)

    def answers(
        self, networks: Sequence[nn.Module], inputs: "Inputs", passes: list["Pass"], *, each: bool
    ) -> Iterator[tuple[list["Pass"], list[Tensor]]]:
        """Run the passes in order, as many at once as memory holds; give each batch with its logits (float32).

        The first are those of all networks added up; after them, if asked for, come those of each.

        Batches are powers of two, so that images of all sizes lead to few different shapes: cuDNN tunes each once.
        """
        done, usual = 0, self.batch
        while done < len(passes):
            most = min(self.batch, len(passes) - done)
            part = passes[done : done + 2 ** (most.bit_length() - 1)]
            try:
                answers = self._forward(networks, [inputs.window(start, form) for start, form in part], each=each)
            except RuntimeError as fault:
                if not room.is_device_full(fault):
                    raise
                self._halve(len(part), inputs.patch)
                continue
            if self.batch < usual:
                say(f"  {self.compute.device} is full: {self.batch} windows at a time from here on, not {usual}")
                usual = self.batch
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

    def place_of_sums(self, extent: Sequence[int], num_outputs: int, image_voxels: int) -> torch.device:
        """Keep image and sums on the device where they leave room for the network, else in main memory."""
        device = torch.device(self.compute.device)
        if device.type != "cuda":
            return torch.device("cpu")
        needed = 4 * (math.prod(extent) * (num_outputs + 1) + image_voxels)
        free = torch.cuda.mem_get_info(device)[0]
        return device if sums_fit(needed, free, self.options.vram_bytes) else torch.device("cpu")

    def add_up(self, sum_KZYX: Tensor, part: "list[Pass]", logits: Tensor, weight_ZYX: Tensor, origin: int = 0) -> None:
        """Add the logits of some passes, mirrored back and weighted, to a map that begins at ``origin`` along z."""
        for (start, form), logits_K in zip(part, logits.to(sum_KZYX.device), strict=True):
            turned = self.options.flip(logits_K, form)
            window = (slice(None), *window_box(start, tuple(weight_ZYX.shape), origin))
            sum_KZYX[window].addcmul_(turned.unsqueeze(1) if self.flat else turned, weight_ZYX)


class Inputs:
    """What the network sees of one image: windows of its channels and of the previous segmentation, mirrored.

    The previous segmentation is kept as one map of classes; its channels exist per window only.
    """

    def __init__(self, configuration: Configuration, image_CZYX: Tensor, previous_CZYX: Tensor | None) -> None:
        """Take what windows are cut from.

        Args:
            configuration: of the network.
            image_CZYX: padded as the layout of the windows says.
            previous_CZYX: the same of the previous segmentation, one channel of inner class indices; or None.

        Attributes:
            origin: where both begin along z; windows are counted from the beginning of the padded image.
        """
        self.patch, self.flat = configuration.patch_shape, configuration.dimensions == 2
        self.image_CZYX, self.previous_CZYX, self.origin = image_CZYX, previous_CZYX, 0
        self.swap_axis = configuration.training.mirror_swap_axis
        self.classes = list(range(1, configuration.num_previous_channels + 1))
        self.swapped = list(self.classes)
        for first, second in configuration.training.mirror_swaps if self.classes else ():
            self.swapped[first - 1], self.swapped[second - 1] = second, first

    def window(self, start: tuple[int, ...], form: tuple[int, ...]) -> Tensor:
        """Give one window (channels, then the network's own axes), mirrored along the axes of ``form``."""
        box = (slice(None), *window_box(start, self.patch, self.origin))
        window = self.image_CZYX[box]
        if self.previous_CZYX is not None:
            shown = torch.tensor(self.swapped if self.swap_axis in form else self.classes, device=window.device)
            channels = self.previous_CZYX[box] == shown.view(-1, 1, 1, 1)
            window = torch.cat([window, channels.to(window.dtype)])
        return flip_maps(window.squeeze(1) if self.flat else window, form)


Pass = tuple[tuple[int, ...], tuple[int, ...]]
"""Start of the window, axes it is mirrored along."""


def window_box(start: tuple[int, ...], edges: tuple[int, ...], origin: int = 0) -> tuple[slice, ...]:
    """Give the slices z, y, x of a window in an array that begins at ``origin`` along z."""
    z, y, x = (slice(low, low + edge) for low, edge in zip(start, edges, strict=True))
    return slice(z.start - origin, z.stop - origin), y, x


def comparable(previous_ZYX: Tensor) -> Tensor:
    """Give a map of classes in a type that torch compares and pads: of unsigned ones it does so with uint8 alone."""
    return previous_ZYX if previous_ZYX.dtype == torch.uint8 else previous_ZYX.to(torch.int32)
