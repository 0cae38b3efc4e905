"""The sliding window over an image of which only some slices are held: logits on demand, from the first slice on.

Windows run along z. As soon as all windows that reach a slice have been seen it is final, is divided by its weights and
handed on; sums are as deep as a window. Equal to ``sliding_window`` to rounding (other windows may share a batch).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.compute import Compute
from autoseg.inference.passes import Inputs, Pass, Passes, WindowOptions, comparable
from autoseg.inference.windows import WindowLayout, gaussian, lay_windows
from planners.plan import Configuration

BAND_SLICES = 8
"""Slices that a 2D configuration sees in one go, so that its windows fill a batch. Assumption."""

CHUNK_BYTES = 2**25
"""Bytes of the image that are preprocessed at a time; some copies of them are alive meanwhile. Assumption."""

ImageRows = Callable[[int, int], np.ndarray]
"""Gives the slices start to stop (exclusive) of a preprocessed image, float32 (channels, slices, y, x)."""


class NotFiniteError(ArithmeticError):
    """The logits of some slices are not finite; in another precision they may be."""


class LogitsRows:
    """Logits of one image and one configuration, given slice by slice (``resampling.SlicesOnDemand``).

    Slices are asked for from the first to the last; what lies before the last question is forgotten.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        image: ImageRows,
        shape: Sequence[int],
        configuration: Configuration,
        compute: Compute,
        options: WindowOptions,
        previous_ZYX: np.ndarray | None = None,
    ) -> None:
        """Lay the windows; nothing is computed yet.

        Args:
            networks: on the device of ``compute``, one per fold.
            image: its slices on demand.
            shape: of the preprocessed image, z, y, x.
            configuration: of the networks.
            compute: device and precision.
            options: mirroring, overlap, batch.
            previous_ZYX: as of ``predict_logits``, whole.

        Attributes:
            tick: is called with the number of passes just done.
        """
        for network in networks:
            network.eval()
        self.layout = lay_windows(shape, configuration, options.step)
        self.passes = Passes(networks, configuration, compute, options)
        self.shape: tuple[int, ...] = (configuration.target.num_outputs, *shape)
        self.bands = cut_bands(self.layout)
        depth = max(band[-1] - band[0] for band in self.bands)
        extent = (depth + self.layout.output[0], *self.layout.extent[1:])
        inside = (depth + self.layout.patch[0], *self.layout.padded[1:])
        channels = configuration.num_input_channels - configuration.num_previous_channels
        place = self.passes.place_of_sums(extent, len(self), channels * int(np.prod(inside)))
        self._inputs = _InputRows(image, self.layout, inside, channels, place)
        self._previous = None
        if previous_ZYX is not None:
            known = comparable(torch.from_numpy(previous_ZYX))[None]
            self._previous = _InputRows(lambda a, b: known[:, a:b], self.layout, inside, 1, place, known.dtype)
        self._sums = torch.zeros((len(self), *extent), device=place)
        self._weight = (gaussian(self.layout.output) / (len(self.passes.forms) * len(networks))).to(place)
        self.tick: Callable[[int], None] = lambda passes: None
        self._next = 0
        self._begin = self._final = 0  # where the sums begin, and up to where they are final, in the windows' extent
        self._last: tuple[int, np.ndarray] = (0, np.empty((len(self), 0, *shape[1:]), dtype=np.float32))

    def __len__(self) -> int:
        """Count the outputs."""
        return self.shape[0]

    @property
    def num_passes(self) -> int:
        """Passes of windows in all mirrored forms."""
        return len(self.layout.windows) * len(self.passes.forms)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Give the logits of slices ``start`` to ``stop`` (exclusive): float32, outputs × slices × y × x.

        ``start`` may not lie before that of the question before.

        Raises:
            NotFiniteError: they are not finite.
            DeviceError: the device's memory does not hold a single window.
        """
        first, known = self._last
        assert start >= first, "slices are asked for from the first to the last"
        parts = [known[:, start - first : stop - first]] if start < first + known.shape[1] else []
        at = max(start, first + known.shape[1]) if parts else start
        while at < stop:
            fill = self.layout.fill[0]
            while at + fill >= self._final:
                self._advance()
            end = min(stop, self._final - fill)
            part = self._sums[:, at + fill - self._begin : end + fill - self._begin]
            part = part[(slice(None), slice(None), *self.layout.crop[1:])]
            parts.append(part.cpu().numpy().copy())  # the sums go on
            at = end
        found = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        self._last = (start, found)
        return found

    @torch.inference_mode()
    def _advance(self) -> None:
        """See the windows of the next band; then the slices before the band after it are final."""
        band, following = self.bands[self._next], self.bands[self._next + 1 :][:1]
        _move(self._sums, band[0] - self._begin)
        self._begin = band[0]
        inputs = Inputs(self.passes.configuration, self._inputs.at(band[0]), None)
        inputs.previous_CZYX = None if self._previous is None else self._previous.at(band[0])
        inputs.origin = band[0]
        windows = [start for start in self.layout.windows if band[0] <= start[0] <= band[-1]]
        passes: list[Pass] = [(start, form) for start in windows for form in self.passes.forms]
        for part, (logits,) in self.passes.answers(self.passes.networks, inputs, passes, each=False):
            self.passes.add_up(self._sums, part, logits, self._weight, self._begin)
            self.tick(len(part))
        self._final = following[0][0] if following else self.layout.extent[0]
        for row in range(self._begin, self._final):
            plane = self._sums[:, row - self._begin]
            plane /= self.layout.total_weight(row, row + 1)[0].to(plane.device)
            if not bool(torch.isfinite(plane.sum())):
                raise NotFiniteError
        self._next += 1


class AveragedRows:
    """The mean of several networks' logits on one grid, weighted; slices on demand."""

    def __init__(self, parts: Sequence[LogitsRows], weights: Sequence[float]) -> None:
        self.parts, self.weights, self.shape = parts, weights, parts[0].shape

    def __len__(self) -> int:
        """Count the outputs."""
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Give slices as ``LogitsRows.rows`` does."""
        total = np.zeros((len(self), stop - start, *self.shape[2:]), dtype=np.float32)
        for part, weight in zip(self.parts, self.weights, strict=True):
            total += part.rows(start, stop) * np.float32(weight)
        return total


def cut_bands(layout: WindowLayout) -> list[tuple[int, ...]]:
    """Group the windows' places along z: one a band, but for windows of a single slice, of which several go at once."""
    starts, count = layout.starts[0], 1 if layout.output[0] > 1 else BAND_SLICES
    return [starts[first : first + count] for first in range(0, len(starts), count)]


class _InputRows:
    """The slices of a padded image that a band of windows sees; those that the next band sees too are kept."""

    def __init__(
        self,
        rows: Callable[[int, int], np.ndarray | Tensor],
        layout: WindowLayout,
        shape: Sequence[int],
        channels: int,
        place: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rows, self._layout = rows, layout
        self._held = torch.zeros((channels, *shape), dtype=dtype, device=place)
        self._begin, self._end = 0, 0  # slices that are held, in the padded image
        self._chunk = max(CHUNK_BYTES // (4 * channels * layout.shape[1] * layout.shape[2]), 1)

    def at(self, begin: int) -> Tensor:
        """Give the slices from ``begin`` of the padded image on; the tensor is valid until the next call."""
        _move(self._held, begin - self._begin)
        self._begin = begin
        end = min(begin + self._held.shape[1], self._layout.padded[0])
        low, size = self._layout.before[0], self._layout.shape[0]
        first, last = max(self._end, begin, low) - low, min(end - low, size)
        y, x = (slice(before, before + length) for before, length in zip(
            self._layout.before[1:], self._layout.shape[1:], strict=True))  # fmt: skip
        for start in range(first, last, self._chunk):
            stop = min(start + self._chunk, last)
            rows = torch.as_tensor(self._rows(start, stop))
            self._held[:, start + low - begin : stop + low - begin, y, x] = rows.to(self._held.device)
        self._end = end
        return self._held


def _move(held: Tensor, steps: int) -> None:
    """Move slices (axis 1) towards the front, in place, and put zeros behind them."""
    if not steps:
        return
    kept = max(held.shape[1] - steps, 0)
    for row in range(kept):
        held[:, row] = held[:, row + steps]
    held[:, kept:] = 0
