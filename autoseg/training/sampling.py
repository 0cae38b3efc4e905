"""Batches of patches from stored cases: drawn, read and augmented, the same in every run.

What is drawn for a sample depends on (seed, stream, epoch, step, index in the batch) alone: these are the key and the
counter of its generator. So neither the number of workers nor a restart changes a sample.

On a CPU one background thread makes whole batches ahead. For another device it reads the boxes ahead, and the device
makes the patches from them.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.errors import DatasetError
from autoseg.preprocessing.preprocess import OUTSIDE
from autoseg.preprocessing.store import StoredCase
from autoseg.training.augmentation import SampleParameters, apply, draw_parameters
from autoseg.training.placement import draw_corner, is_forced
from autoseg.training.spatial import MARGIN, Box, PaddedBox, PatchFrame, Shape, needed_box, resample
from planners.plan import Configuration

TRAINING_STREAM, VALIDATION_STREAM = 0, 1
"""Part of the key of a sample's generator: training and validation never draw the same numbers."""

AHEAD = 2
"""Batches kept ready (assumption: one to hide an ordinary batch, one to hide a slow one)."""

MAPPED_CASES = 100
"""Cases whose files stay mapped; each holds two of the 1024 files that a process may usually have open."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the network trains on.

    Attributes:
        image: float32, B × C × z × y × x; in 2D B × C × y × x.
        label: int16, B × layers × z × y × x (2D: without z); ``OUTSIDE`` has become 0.
        case_ids: per sample.
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was drawn for one sample: its case, the first voxel (z, y, x) of its loader patch, what happens to it."""

    case: StoredCase
    corner: Shape
    parameters: SampleParameters


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """A batch as read: patches that are cut out are in place, the others are still boxes (by index in the batch)."""

    samples: tuple[Sample, ...]
    image: Tensor
    label: Tensor
    boxes: dict[int, PaddedBox]


def sample_generator(seed: int, stream: int, epoch: int, step: int, index: int) -> np.random.Generator:
    """Give the generator that belongs to one sample and to no other."""
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    counter = np.array([0, index, step, epoch], dtype=np.uint64)  # the first word counts what the sample draws
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class BatchSource:
    """Random batches of one configuration from a set of cases.

    Args:
        cases: to draw from; each is as likely as any other.
        configuration: patch and batch size, augmentation, foreground fraction.
        seed: of everything random.
        augment: for training; without, patches are cut out as they are, and other numbers are drawn.

    Raises:
        DatasetError: there are no cases.
    """

    def __init__(self, cases: Sequence[StoredCase], configuration: Configuration, *, seed: int, augment: bool) -> None:
        if not cases:
            raise DatasetError(f"{configuration.name}: no cases to draw patches from. Give the fold at least one case")
        self.cases = tuple(cases)
        self.configuration = configuration
        self.seed = seed
        self.augment = augment
        self.augmented = augment and configuration.training.augmentation.enabled
        self.frame = PatchFrame.of(configuration, augment=self.augmented)
        masked = enumerate(configuration.use_mask_for_norm)
        self.mask_channels = [channel for channel, inside in masked if inside] if self.augmented else []
        self._mapped = functools.lru_cache(MAPPED_CASES)(lambda case: (case.image, case.labels))

    def batch(self, epoch: int, step: int, device: torch.device | str = "cpu") -> Batch:
        """Make one batch on a device."""
        return self.finish(self.gather(epoch, step, device), device)

    def samples(self, epoch: int, step: int) -> tuple[Sample, ...]:
        """Draw one batch without reading any voxel."""
        return tuple(self._sample(epoch, step, index) for index in range(self.configuration.batch_size))

    def gather(self, epoch: int, step: int, device: torch.device | str = "cpu") -> Gathered:
        """Draw one batch and read it into main memory (pinned, where ``device`` is a GPU)."""
        samples = self.samples(epoch, step)
        pinned = torch.device(device).type == "cuda"
        channels, layers = (len(array) for array in self._mapped(samples[0].case))
        size = (len(samples), channels, *self.frame.patch)
        image = torch.empty(size, dtype=torch.float32, pin_memory=pinned)
        size = (len(samples), layers, *self.frame.patch)
        label = torch.empty(size, dtype=torch.int16, pin_memory=pinned)
        boxes = {}
        for index, sample in enumerate(samples):
            matrix = sample.parameters.matrix(self.frame.planar)
            box = _shifted(needed_box(matrix, self.frame), sample.corner)
            if matrix is None:
                flipped = tuple(slice(None, None, -1 if axis in sample.parameters.mirror else 1) for axis in range(3))
                place = (slice(None), *flipped)
                _read(self._mapped(sample.case), box, (image[index].numpy()[place], label[index].numpy()[place]))
            else:
                boxes[index] = self._padded_box(sample, matrix, box, pinned)
        return Gathered(samples=samples, image=image, label=label, boxes=boxes)

    def finish(self, gathered: Gathered, device: torch.device | str = "cpu") -> Batch:
        """Make a batch of what was read: rotate and scale, change intensities, on the device."""
        image = gathered.image.to(device, non_blocking=True)
        label = gathered.label.to(device, non_blocking=True)
        for index, box in gathered.boxes.items():
            resample(box, image[index], label[index])
        if self.augmented:
            apply(image, label, [sample.parameters for sample in gathered.samples], self.mask_channels)
        label.clamp_(min=0)
        if self.configuration.dimensions == 2:
            image, label = image.squeeze(2), label.squeeze(2)
        return Batch(image=image, label=label, case_ids=tuple(sample.case.id for sample in gathered.samples))

    def _sample(self, epoch: int, step: int, index: int) -> Sample:
        stream = TRAINING_STREAM if self.augment else VALIDATION_STREAM
        rng = sample_generator(self.seed, stream, epoch, step, index)
        case = self.cases[int(rng.integers(len(self.cases)))]
        fraction = self.configuration.training.foreground_fraction
        forced = is_forced(rng, index, self.configuration.batch_size, fraction)
        corner = draw_corner(rng, case, self.frame, forced)
        parameters = draw_parameters(rng, self.configuration) if self.augmented else SampleParameters()
        return Sample(case=case, corner=corner, parameters=parameters)

    def _padded_box(self, sample: Sample, matrix: np.ndarray, box: Box, pinned: bool) -> PaddedBox:
        turned = range(self.frame.first_axis, 3)
        box = _clipped(box, sample.case.shape, turned)
        before = [MARGIN[0] if axis in turned else 0 for axis in range(3)]
        after = [MARGIN[1] if axis in turned else 0 for axis in range(3)]
        size = [a + stop - start + b for a, (start, stop), b in zip(before, box, after, strict=True)]
        source = self._mapped(sample.case)
        dtype = torch.from_numpy(np.empty(0, source[1].dtype)).dtype
        image = torch.zeros((len(source[0]), *size), dtype=torch.float32, pin_memory=pinned)
        label = torch.full((len(source[1]), *size), OUTSIDE, dtype=dtype, pin_memory=pinned)
        inner = [slice(None), *(slice(a, length - b) for a, b, length in zip(before, after, size, strict=True))]
        if self.frame.planar and 0 in sample.parameters.mirror:  # the matrix mirrors the other axes
            inner[1] = slice(None, None, -1)
        _read(source, box, (image.numpy()[tuple(inner)], label.numpy()[tuple(inner)]))
        center = []
        for axis in turned:
            middle = sample.corner[axis] + (self.frame.loader[axis] - 1) / 2
            center.append(middle - box[axis][0] + before[axis])
        return PaddedBox(image_CZYX=image, label_LZYX=label, matrix=matrix, center=tuple(center))


def _read(arrays: Sequence[np.ndarray], box: Box, out: Sequence[np.ndarray]) -> None:
    """Read a box of an image and its labels; what lies outside becomes 0 and ``OUTSIDE``."""
    inside = _clipped(box, arrays[0].shape[1:], range(3))
    target: list[slice] = [slice(None)]
    source: list[slice] = [slice(None)]
    for (start, _), (low, high) in zip(box, inside, strict=True):
        target.append(slice(low - start, high - start))
        source.append(slice(low, high))
    for array, part, padding in zip(arrays, out, (0, OUTSIDE), strict=True):
        if inside != box:
            part[:] = padding
        if all(low < high for low, high in inside):
            part[tuple(target)] = array[tuple(source)]


def _shifted(box: Box, corner: Shape) -> Box:
    z, y, x = ((start + first, stop + first) for (start, stop), first in zip(box, corner, strict=True))
    return (z, y, x)


def _clipped(box: Box, shape: Sequence[int], axes: Sequence[int]) -> Box:
    """Keep what lies within the image along some axes; nothing is left as an empty range at its border."""
    parts = list(box)
    for axis in axes:
        start, stop = (min(max(value, 0), shape[axis]) for value in box[axis])
        parts[axis] = (start, stop)
    return (parts[0], parts[1], parts[2])


def prefetch(source: BatchSource, epoch: int, steps: range, device: torch.device | str) -> Iterator[Batch]:
    """Give the batches of some steps, in order, while a background thread prepares the next ones.

    What the thread raises is raised here. The thread ends when the iterator is exhausted, closed or forgotten.
    """
    prepare = source.batch if torch.device(device).type == "cpu" else source.gather
    ready: queue.Queue[Batch | Gathered | BaseException] = queue.Queue(maxsize=AHEAD)
    started, stopped = threading.Event(), threading.Event()

    def work() -> None:
        torch.set_num_threads(1)  # more would wait for the threads of the training step, and burn their time
        started.set()
        for step in steps:
            item = _outcome(prepare, epoch, step, device)
            while not stopped.is_set() and not _offer(ready, item):
                pass
            if stopped.is_set() or isinstance(item, BaseException):
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    num_threads = torch.get_num_threads()
    thread.start()
    started.wait()
    torch.set_num_threads(num_threads)  # the number is each thread's own, but the last one set is that of new threads
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item if isinstance(item, Batch) else source.finish(item, device)
    finally:
        stopped.set()
        thread.join()


def _outcome(prepare: Callable[..., Batch | Gathered], *place: Any) -> Batch | Gathered | BaseException:
    try:
        return prepare(*place)
    except BaseException as fault:
        return fault


def _offer(ready: queue.Queue[Any], item: object) -> bool:
    try:
        ready.put(item, timeout=0.1)
    except queue.Full:
        return False
    return True
