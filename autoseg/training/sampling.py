"""Batches of patches from stored cases: drawn, read and augmented, the same in every run.

What is drawn for a sample depends on (seed, stream, epoch, step, index in the batch) alone: these are the key and the
counter of its generator. So neither the number of workers nor a restart changes a sample.

On a CPU one background thread makes whole batches ahead. For another device it reads the boxes ahead, and the device
makes the patches from them. Where labels are encoded on the way, which takes processors whatever the device, the thread
makes whole batches for every device; on a GPU in a stream of its own, so that it waits for its own work alone.
"""

import contextlib
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
from autoseg.preprocessing.store import StoredCase
from autoseg.training.augmentation import SampleParameters, apply, apply_to_previous, draw_parameters
from autoseg.training.boxes import map_arrays, num_layers, read_box, read_padded_box, shifted, torch_type
from autoseg.training.placement import draw_corner, is_forced
from autoseg.training.spatial import PaddedBox, PatchFrame, Shape, needed_box, resample
from planners.plan import Configuration

TRAINING_STREAM, VALIDATION_STREAM = 0, 1
"""Part of the key of a sample's generator: training and validation never draw the same numbers."""

AHEAD = 2
"""Batches kept ready (assumption: one to hide an ordinary batch, one to hide a slow one)."""

MAPPED_CASES = 100
"""Cases whose files stay mapped; each holds up to three of the 1024 files that a process may usually have open."""


Encoded = tuple[list[Tensor], list[Tensor | None]]
"""Maps and weights, one of each per output of the network, as ``Target.encode`` gives them."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the network trains on.

    Attributes:
        image: float32, B × C × z × y × x; in 2D B × C × y × x. For a cascade the channels of the image, then one per
            foreground class of the previous segmentation.
        label: int16, or int32 where a case of the source is stored so, B × layers × z × y × x (2D: without z): classes,
            in which ``OUTSIDE`` has become 0, and ids of objects where they are told apart, ``OUTSIDE`` beyond the
            image.
        case_ids: per sample.
        annotated: bool, B × classes: False where a case has not been annotated for that class. None where every case of
            the source has been annotated for all of them.
        encoded: what the source's ``encode`` made of the label; None where the source has none.
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]
    annotated: Tensor | None = None
    encoded: Encoded | None = None


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
        configuration: patch and batch size, inputs, augmentation, foreground fraction.
        seed: of everything random.
        augment: for training; without, patches are cut out as they are, and other numbers are drawn.
        num_classes: of the plan's labels, background included; needed where a case is annotated for some of them only.
        encode: makes maps and weights of the final labels, for targets where that takes time: then it is done ahead.

    Raises:
        DatasetError: there are no cases.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        configuration: Configuration,
        *,
        seed: int,
        augment: bool,
        num_classes: int | None = None,
        encode: Callable[[Tensor], Encoded] | None = None,
    ) -> None:
        if not cases:
            raise DatasetError(f"{configuration.name}: no cases to draw patches from. Give the fold at least one case")
        self.cases = tuple(cases)
        self.configuration = configuration
        self.seed = seed
        self.augment = augment
        self.num_classes = num_classes
        self.encode = encode
        self.partly_annotated = any(case.annotated_classes is not None for case in cases)
        self.label_dtype = np.result_type(*{case.labels_dtype for case in cases})
        self.augmented = augment and configuration.training.augmentation.enabled
        self.frame = PatchFrame.of(configuration, augment=self.augmented)
        masked = enumerate(configuration.use_mask_for_norm)
        self.mask_channels = [channel for channel, inside in masked if inside] if self.augmented else []
        self.swaps, axis = configuration.training.mirror_swaps, configuration.training.mirror_swap_axis
        self.swap_axis = None if axis is None else axis + 3 - configuration.dimensions  # among z, y, x
        with_previous = configuration.num_previous_channels > 0
        self.arrays = functools.lru_cache(MAPPED_CASES)(lambda case: map_arrays(case, with_previous=with_previous))

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
        first = self.arrays(samples[0].case)
        size = (len(samples), len(first[0]), *self.frame.patch)
        image = torch.empty(size, dtype=torch.float32, pin_memory=pinned)
        size = (len(samples), num_layers(first), *self.frame.patch)
        label = torch.empty(size, dtype=torch_type(self.label_dtype), pin_memory=pinned)
        boxes = {}
        for index, sample in enumerate(samples):
            mirror, matrix = sample.parameters.mirror, sample.parameters.matrix(self.frame.planar)
            box = shifted(needed_box(matrix, self.frame), sample.corner)
            arrays = self.arrays(sample.case)
            if matrix is None:
                place = (slice(None), *(slice(None, None, -1 if axis in mirror else 1) for axis in range(3)))
                read_box(arrays, box, image[index].numpy()[place], label[index].numpy()[place])
            else:
                flipped = self.frame.planar and 0 in mirror  # the matrix mirrors the other axes
                boxes[index] = read_padded_box(
                    arrays, box, sample.corner, self.frame, matrix, flipped=flipped, pinned=pinned
                )
        return Gathered(samples=samples, image=image, label=label, boxes=boxes)

    def finish(self, gathered: Gathered, device: torch.device | str = "cpu") -> Batch:
        """Make a batch of what was read: rotate and scale, change intensities, on the device."""
        image = gathered.image.to(device, non_blocking=True)
        label = gathered.label.to(device, non_blocking=True)
        for index, box in gathered.boxes.items():
            resample(box, image[index], label[index])
        if self.augmented:
            apply(image, label, [sample.parameters for sample in gathered.samples], self.mask_channels)
        swapped = [self.swap_axis in sample.parameters.mirror for sample in gathered.samples]
        return self.assemble(image, label, gathered.samples, swapped)

    def assemble(
        self, image_BCZYX: Tensor, label_BLZYX: Tensor, samples: Sequence[Sample], swapped: Sequence[bool]
    ) -> Batch:
        """Make a batch of patches in their final place: left and right are told apart again, inputs are put together.

        Args:
            image_BCZYX: the channels of the image.
            label_BLZYX: all layers, the previous segmentation last; changed in place.
            samples: as drawn.
            swapped: per sample, whether it is mirrored along the axis that exchanges left and right.
        """
        image, label = image_BCZYX, label_BLZYX
        num_channels = self.configuration.num_previous_channels
        # Ids of objects, between them, belong to no side, and tell what lies beyond the image: there they are below 0.
        with_classes = [0, -1] if num_channels else [0]
        for layer in with_classes:
            label[:, layer].clamp_(min=0)
        for layers, mirrored in zip(label, swapped, strict=True):
            for layer in with_classes if mirrored else ():
                swap_classes(layers[layer], self.swaps)
        if num_channels:
            label, previous = label[:, :-1].contiguous(), label[:, -1]
            if self.augmented:
                parameters = [sample.parameters for sample in samples]
                apply_to_previous(previous, parameters, planar=self.frame.planar)
            classes = torch.arange(1, num_channels + 1, device=label.device, dtype=label.dtype)
            image = torch.cat([image, (previous[:, None] == classes.view(1, -1, 1, 1, 1)).to(image.dtype)], dim=1)
        if self.configuration.dimensions == 2:
            image, label = image.squeeze(2), label.squeeze(2)
        annotated = self._annotated(samples, swapped) if self.partly_annotated else None
        return Batch(
            image=image,
            label=label,
            case_ids=tuple(sample.case.id for sample in samples),
            annotated=None if annotated is None else annotated.to(label.device),
            encoded=None if self.encode is None else self.encode(label),
        )

    def _sample(self, epoch: int, step: int, index: int) -> Sample:
        stream = TRAINING_STREAM if self.augment else VALIDATION_STREAM
        rng = sample_generator(self.seed, stream, epoch, step, index)
        case = self.cases[int(rng.integers(len(self.cases)))]
        fraction = self.configuration.training.foreground_fraction
        forced = is_forced(rng, index, self.configuration.batch_size, fraction)
        corner = draw_corner(rng, case, self.frame, forced)
        parameters = draw_parameters(rng, self.configuration) if self.augmented else SampleParameters()
        return Sample(case=case, corner=corner, parameters=parameters)

    def _annotated(self, samples: Sequence[Sample], swapped: Sequence[bool]) -> Tensor:
        """Tell per sample and class whether the case has been annotated for it."""
        assert self.num_classes is not None, "cases that are annotated in part need the number of classes"
        annotated = torch.ones(len(samples), self.num_classes, dtype=torch.bool)
        for row, sample, mirrored in zip(annotated, samples, swapped, strict=True):
            if sample.case.annotated_classes is None:
                continue
            row[1:] = False
            row[list(sample.case.annotated_classes)] = True
            for pair in self.swaps if mirrored else ():
                row[list(pair)] = row[list(pair[::-1])]
        return annotated


def swap_classes(layer: Tensor, pairs: Sequence[tuple[int, int]]) -> None:
    """Let pairs of classes, such as left and right, change places in a label layer of classes. Works in place."""
    for first, second in pairs:
        is_first, is_second = layer == first, layer == second
        layer.masked_fill_(is_first, second).masked_fill_(is_second, first)


def prefetch(source: BatchSource, epoch: int, steps: range, device: torch.device | str) -> Iterator[Batch]:
    """Give the batches of some steps, in order, while a background thread prepares the next ones.

    What the thread raises is raised here. The thread ends when the iterator is exhausted, closed or forgotten.
    """
    prepare = source.batch if torch.device(device).type == "cpu" else source.gather
    if source.encode is not None:
        prepare = functools.partial(_batch_in_stream, source)
    ready: queue.Queue[Batch | Gathered | BaseException] = queue.Queue(maxsize=AHEAD)
    started, stopped = threading.Event(), threading.Event()

    def work() -> None:
        torch.set_num_threads(1)  # more would wait for the threads of the training step, and burn their time
        started.set()
        for step in steps:
            item = _outcome(prepare, epoch, step, device)
            if isinstance(item, Exception):
                _name_cases(item, source, epoch, step)
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
            yield _received(item) if isinstance(item, Batch) else source.finish(item, device)
    finally:
        stopped.set()
        thread.join()


def _batch_in_stream(source: BatchSource, epoch: int, step: int, device: torch.device | str) -> Batch:
    """Make a whole batch; on a GPU in this thread's own stream, and the batch is there when it is given."""
    if torch.device(device).type != "cuda":
        return source.batch(epoch, step, device)
    stream = _preparing_stream(str(device))
    with torch.cuda.stream(stream):
        batch = source.batch(epoch, step, device)
        stream.synchronize()
    return batch


@functools.cache
def _preparing_stream(device: str) -> torch.cuda.Stream:
    """Give the one stream of a GPU in which batches are prepared: the allocator keeps memory for each stream apart."""
    return torch.cuda.Stream(device)


def _received(batch: Batch) -> Batch:
    """Take a batch over from the stream in which it was made: its memory stays its own until this stream is done."""
    maps, weights = batch.encoded or ([], [])
    for tensor in (batch.image, batch.label, batch.annotated, *maps, *weights):
        if tensor is not None and tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch


def _name_cases(fault: Exception, source: BatchSource, epoch: int, step: int) -> None:
    """Note on a fault whose patches were being made."""
    with contextlib.suppress(Exception):  # the fault may be in drawing them
        cases = dict.fromkeys(sample.case.id for sample in source.samples(epoch, step))
        fault.add_note(f"while making a batch of {', '.join(cases)}")


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
