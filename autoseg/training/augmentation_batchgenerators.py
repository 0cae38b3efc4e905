"""The same augmentation, made of batchgenerators' own transforms and run by its augmenter in processes.

Chosen by ``training.augmentation.backend = "batchgenerators"``. Cases, patches, forced foreground, probabilities and
ranges are those of ``sampling`` and ``augmentation``. Every worker makes whole batches, and the random numbers of a
batch depend on (seed, epoch, step) alone, so that the number of workers and a restart change nothing here either.

What differs from the torch backend (batchgenerators 0.25.5):

- Other random numbers: with equal seeds the patches lie in the same places, but other things happen to them.
- Scales are below 1 as often as above; the torch backend draws them uniformly from 0.7 to 1.4.
- The Gaussian blur ends at 4 sigmas and repeats the border voxel; there it ends at about 3 and does not.
- Low resolution resamples with scikit-image, which places the coarse voxels slightly differently.
- Gamma restores the standard deviation over n voxels, not n − 1, and adds to small ranges instead of bounding them.
- The package has nothing for the previous segmentation of a cascade: it is moved along as one more label layer, and
  then changed as in the torch backend, by the trainer's process.
- The whole loader patch is read for every sample, and everything is computed on processors, in seven times the CPU
  time for 40 × 56 × 40 voxels and nine times for 96³ (2026-11, ``benchmarks/augmentation.py``).

Source: the package's documented use; recipe as in ``augmentation``.
"""

import os
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from autoseg.errors import AutosegError, OptionError
from autoseg.progress import say
from autoseg.training import augmentation as recipe
from autoseg.training.boxes import num_layers, read_box, shifted
from autoseg.training.sampling import Batch, BatchSource, Sample, prefetch, sample_generator
from autoseg.training.spatial import Box
from planners.plan import Configuration

STREAM = 2
"""Part of the key of a batch's random numbers; 0 and 1 are those of ``sampling``."""

MAX_WORKERS = 12
"""More processes than this are never started. nnU-Net v2.8.1."""

WATCH_INTERVAL_S = 1.0
"""How often a worker looks whether its parent is still there."""

Item = dict[str, Any]


def augmented_batches(
    source: BatchSource, epoch: int, steps: range, device: torch.device | str, num_workers: int | None = None
) -> Iterator[Batch]:
    """Give the batches of some steps, in order, augmented by batchgenerators in background processes.

    Args:
        source: what to draw; where it does not augment, its plain batches are given.
        epoch, steps: which batches.
        device: where they go.
        num_workers: processes; 0 works in this one. Default: the processors this process may use, at most
            ``MAX_WORKERS``.

    Raises:
        OptionError: batchgenerators cannot be imported.
        AutosegError: a worker failed; or the only one ended by itself. Where one of several does, fewer go on.
    """
    if not source.augmented:
        yield from prefetch(source, epoch, steps, device)
        return
    if num_workers is None:
        num_workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    num_workers = min(num_workers, len(steps))
    while len(steps):
        augmenter = _augmenter(source, epoch, steps, num_workers)
        try:
            for step in steps:
                item = _next(augmenter)
                steps = steps[1:]
                yield _batch(source, source.samples(epoch, step), item, device)
        except WorkerEndedError as fault:
            cases = ", ".join(dict.fromkeys(sample.case.id for sample in source.samples(epoch, steps[0])))
            if num_workers < 2:
                raise AutosegError(f"{fault} Its cases: {cases}") from fault
            num_workers //= 2
            fewer = f"going on with {num_workers}"
            say(f"  a worker of the augmentation ended by itself, about at step {steps[0] + 1} ({cases}); {fewer}")
        finally:
            if num_workers:
                augmenter._finish()  # there is no public way to end its processes


class WorkerEndedError(AutosegError):
    """A worker process is gone, and nobody has said why."""


def _augmenter(source: BatchSource, epoch: int, steps: range, num_workers: int) -> Any:
    try:
        from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
        from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

        transforms = make_transforms(source)
    except ImportError as fault:
        raise OptionError(
            f"training.augmentation.backend is 'batchgenerators', but that package cannot be used here ({fault}). "
            "Install batchgenerators 0.25.5, or set the backend to 'torch'"
        ) from fault
    loader = _Loader(source, epoch, steps, max(num_workers, 1))
    if num_workers == 0:
        return SingleThreadedAugmenter(loader, _Guarded(transforms))
    return MultiThreadedAugmenter(loader, _Guarded(transforms), num_workers)


def _next(augmenter: Any) -> Item:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: workers use numpy alone
            item: Item = next(augmenter)
    except RuntimeError as fault:
        raise WorkerEndedError(
            f"a worker of the batchgenerators augmentation ended by itself ({str(fault).strip()}). If memory ran out, "
            "use fewer processors or --set '*.training.augmentation.backend=\"torch\"'."
        ) from fault
    if "fault" in item:
        raise AutosegError(f"a worker of the batchgenerators augmentation failed:\n{item['fault']}")
    return item


def _batch(source: BatchSource, samples: Sequence[Sample], item: Item, device: torch.device | str) -> Batch:
    image = torch.from_numpy(np.ascontiguousarray(item["data"], dtype=np.float32)).to(device)
    label = torch.from_numpy(np.ascontiguousarray(item["seg"], dtype=source.label_dtype)).to(device)
    if source.configuration.dimensions == 2:
        image, label = image.unsqueeze(2), label.unsqueeze(2)
    return source.assemble(image, label, samples, item.get("swapped", [False] * len(samples)))


class _Loader:
    """What the augmenter iterates over: the loader patches of every n-th step, read whole."""

    def __init__(self, source: BatchSource, epoch: int, steps: range, num_workers: int) -> None:
        self.arguments = (source.cases, source.configuration, source.seed)
        self.epoch = epoch
        self.steps = steps
        self.num_workers = num_workers
        self.parent = os.getpid()
        self.source: BatchSource | None = None
        self.left = iter(steps)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"source": None, "left": None}  # a worker makes its own

    def set_thread_id(self, number: int) -> None:
        """Begin as worker ``number``; called by the augmenter in the worker's process."""
        self.left = iter(self.steps[number :: self.num_workers])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, who ends the workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=self._end_with_parent, daemon=True).start()

    def _end_with_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(WATCH_INTERVAL_S)
        os._exit(1)

    def __iter__(self) -> "_Loader":
        return self

    def __next__(self) -> Item:
        step = next(self.left)
        try:
            return self._read(step)
        except Exception:
            return {"fault": traceback.format_exc()}

    def _read(self, step: int) -> Item:
        if self.source is None:
            cases, configuration, seed = self.arguments
            self.source = BatchSource(cases, configuration, seed=seed, augment=True)
        source = self.source
        number = int(sample_generator(source.seed, STREAM, self.epoch, step, 0).integers(2**32))
        np.random.seed(number)  # batchgenerators draws from the global generators
        random.seed(number)
        samples, loader = source.samples(self.epoch, step), source.frame.loader
        first = source.arrays(samples[0].case)
        data = np.empty((len(samples), len(first[0]), *loader), dtype=np.float32)
        seg = np.empty((len(samples), num_layers(first), *loader), dtype=source.label_dtype)
        whole: Box = ((0, loader[0]), (0, loader[1]), (0, loader[2]))
        for sample, image, label in zip(samples, data, seg, strict=True):
            read_box(source.arrays(sample.case), shifted(whole, sample.corner), image, label)
        if source.configuration.dimensions == 2:
            data, seg = data[:, :, 0], seg[:, :, 0]
        return {"data": data, "seg": seg, "keys": [sample.case.id for sample in samples]}


class _Guarded:
    """Applies transforms, and hands a fault on as an item instead of ending the worker without a word."""

    def __init__(self, transforms: Callable[..., Item]) -> None:
        self.transforms = transforms

    def __call__(self, **item: Any) -> Item:
        if "fault" in item:
            return item
        try:
            return self.transforms(**item)
        except Exception:
            return {"fault": traceback.format_exc()}


def make_transforms(source: BatchSource) -> Callable[..., Item]:
    """Compose the recipe from batchgenerators' transforms.

    Returns:
        A function of a batch (``data`` B × C × …, ``seg`` B × layers × … of the loader patch) as keywords, which gives
        the augmented batch of the patch.
    """
    from batchgenerators.transforms.abstract_transforms import Compose
    from batchgenerators.transforms.spatial_transforms import MirrorTransform
    from batchgenerators.transforms.utility_transforms import RemoveLabelTransform

    configuration = source.configuration
    swap_axis = configuration.training.mirror_swap_axis
    axes = tuple(axis for axis in configuration.training.mirror_axes if axis != swap_axis)
    transforms = _spatial(configuration) + _intensities(configuration)
    if axes:
        transforms.append(MirrorTransform(axes))
    if swap_axis is not None:
        transforms.append(_MirrorSides(swap_axis))
    transforms += [_Mask(source.mask_channels), RemoveLabelTransform(-1, 0)]
    composed: Callable[..., Item] = Compose(transforms)
    return composed


def _spatial(configuration: Configuration) -> list[Any]:
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    augmentation = configuration.training.augmentation
    limits = (-augmentation.rotation_radians, augmentation.rotation_radians)
    transform = SpatialTransform(
        configuration.patch_size[1:] if augmentation.in_plane else configuration.patch_size,
        patch_center_dist_from_border=None,
        do_elastic_deform=False,
        angle_x=limits,
        angle_y=limits,
        angle_z=limits,
        scale=recipe.SCALES,
        border_mode_data="constant",
        border_cval_data=0,
        order_data=1,
        border_mode_seg="constant",
        border_cval_seg=-1,
        order_seg=1,
        random_crop=False,
        p_scale_per_sample=recipe.SCALING,
        p_rot_per_sample=recipe.ROTATION,
    )
    if not augmentation.in_plane:
        return [transform]
    depth = configuration.patch_size[0]
    return [_SlicesToChannels(), transform, _ChannelsToSlices(depth)]


def _intensities(configuration: Configuration) -> list[Any]:
    from batchgenerators.transforms.color_transforms import (
        BrightnessMultiplicativeTransform,
        ContrastAugmentationTransform,
        GammaTransform,
    )
    from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
    from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform

    return [
        GaussianNoiseTransform(recipe.NOISE_SIGMAS, p_per_sample=recipe.NOISE),  # its variance is a deviation
        GaussianBlurTransform(
            recipe.BLUR_SIGMAS,
            different_sigma_per_channel=True,
            different_sigma_per_axis=True,
            p_per_channel=recipe.BLUR_CHANNEL,
            p_per_sample=recipe.BLUR,
        ),
        BrightnessMultiplicativeTransform(recipe.FACTORS, per_channel=True, p_per_sample=recipe.BRIGHTNESS),
        ContrastAugmentationTransform(recipe.FACTORS, per_channel=True, p_per_sample=recipe.CONTRAST),
        SimulateLowResolutionTransform(
            recipe.ZOOMS,
            per_channel=True,
            p_per_channel=recipe.LOW_RESOLUTION_CHANNEL,
            order_downsample=0,
            order_upsample=1,
            p_per_sample=recipe.LOW_RESOLUTION,
            ignore_axes=(0,) if configuration.training.augmentation.in_plane else None,
        ),
        GammaTransform(recipe.GAMMAS, True, True, retain_stats=True, p_per_sample=recipe.INVERTED_GAMMA),
        GammaTransform(recipe.GAMMAS, False, True, retain_stats=True, p_per_sample=recipe.GAMMA),
    ]


class _SlicesToChannels:
    """Makes slices channels, so that one transform in the plane moves them all alike."""

    def __call__(self, **item: Any) -> Item:
        return item | {key: item[key].reshape(len(item[key]), -1, *item[key].shape[3:]) for key in ("data", "seg")}


class _ChannelsToSlices:
    """Undoes ``_SlicesToChannels``."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __call__(self, **item: Any) -> Item:
        for key in ("data", "seg"):
            array = item[key]
            item[key] = array.reshape(len(array), -1, self.depth, *array.shape[2:])
        return item


class _MirrorSides:
    """Mirrors samples along the axis that exchanges left and right, and notes which; the classes change later."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def __call__(self, **item: Any) -> Item:
        swapped = [bool(np.random.uniform() < recipe.MIRROR) for _ in item["data"]]
        for key in ("data", "seg"):
            for sample, mirrored in zip(item[key], swapped, strict=True):
                if mirrored:
                    sample[...] = np.flip(sample, self.axis + 1).copy()
        return item | {"swapped": swapped}


class _Mask:
    """Sets channels to 0 outside the mask."""

    def __init__(self, channels: list[int]) -> None:
        self.channels = channels

    def __call__(self, **item: Any) -> Item:
        outside = item["seg"][:, 0] < 0
        for channel in self.channels:
            item["data"][:, channel][outside] = 0
        return item
