"""Predict an image that is larger than the network's patch: overlapping windows, weighted towards their centres.

Each window is seen in all its mirrored forms and by all networks; what they say is averaged as logits, in float32.
Here image and logits are held whole; ``sliding_rows`` holds some slices at a time.

Source: Isensee et al. 2021 (nnU-Net), Methods, "Inference"; positions and Gaussian as in nnU-Net v2.8.1, but its sums
in half precision, which quantise the logits near the image's border, are not imitated.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg.compute import Compute
from autoseg.errors import ModelError
from autoseg.inference.each_memory import EachNetwork, fits_together
from autoseg.inference.passes import (
    CPU_BATCH_VOXELS,
    GPU_BATCH_VOXELS,
    Inputs,
    Passes,
    WindowOptions,
    comparable,
    flip_maps,
)
from autoseg.inference.windows import WindowLayout, gaussian, lay_windows
from autoseg.progress import meter, say, warn
from planners.plan import Configuration

__all__ = [
    "CPU_BATCH_VOXELS",
    "GPU_BATCH_VOXELS",
    "WindowOptions",
    "flip_maps",
    "predict_each",
    "predict_logits",
]

LARGEST_HALF = 65504.0  # of float16


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
        warn(f"  logits not finite in {compute.precision}; this image again in fp32")
        exact = dataclasses.replace(compute, precision="fp32")
        return predict_each(networks, image_CZYX, configuration, exact, options, what, previous_ZYX)
    raise ModelError(
        f"the network of {configuration.name} gives logits that are not finite for this image. "
        "Look for extreme or non-finite voxels in the image; if all images are like this, the weights are damaged"
    )


class _Passes(Passes):
    """The passes of one image that is in memory."""

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
        if self._place(seen, num_outputs * (1 + count)).type != "cpu":
            return True
        return fits_together(EachNetwork(num_networks=count, voxels=num_outputs * math.prod(seen.layout.extent)))

    def _sums(
        self, networks: Sequence[nn.Module], seen: "_Seen", what: str | None, *, each: bool = False
    ) -> list[Tensor]:
        """Add up the weighted logits of all passes over the windows' extent: of all networks, then of each."""
        layout, num_outputs = seen.layout, self.configuration.target.num_outputs
        num_sums = 1 + (len(networks) if each else 0)
        place = self._place(seen, num_outputs * num_sums)
        inputs = Inputs(self.configuration, layout.pad(seen.image_CZYX).to(place), _padded(seen, place))
        sums = [torch.zeros((num_outputs, *layout.extent), device=place) for _ in range(num_sums)]
        weight_ZYX = (gaussian(layout.output) / (len(self.forms) * len(self.networks))).to(place)
        passes = [(start, form) for start in layout.windows for form in self.forms]
        tick = meter(len(passes), what) if what else None
        for part, answers in self.answers(networks, inputs, passes, each=each):
            for sum_KZYX, logits in zip(sums, answers, strict=True):
                self.add_up(sum_KZYX, part, logits, weight_ZYX)
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

    def _place(self, seen: "_Seen", num_outputs: int) -> torch.device:
        return self.place_of_sums(seen.layout.extent, num_outputs, math.prod(seen.image_CZYX.shape))


class _Seen(NamedTuple):
    """What all passes of one image share."""

    layout: WindowLayout
    image_CZYX: Tensor
    previous_ZYX: Tensor | None


def _half(logits: Tensor) -> Tensor:
    return logits.clamp_(-LARGEST_HALF, LARGEST_HALF).half().to("cpu").contiguous()


def _padded(seen: _Seen, place: torch.device) -> Tensor | None:
    """Pad the previous segmentation, where there is one."""
    if seen.previous_ZYX is None:
        return None
    return seen.layout.pad(comparable(seen.previous_ZYX)[None]).to(place)
