"""Segment new images with what a run has trained.

``Predictor`` opens a model once for as many images as there are; ``predict`` takes one image in memory or on disk,
``predict_folder`` whole folders.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.cases import Case
from autoseg.data.io import Image, image_from_array, image_from_sitk, open_image, sitk_from_label
from autoseg.errors import ModelError, OptionError
from autoseg.evaluation import postprocessing
from autoseg.inference.case_memory import MemoryLimit, Needs
from autoseg.inference.cases import find_cases
from autoseg.inference.chain import Chain
from autoseg.inference.device_memory import bound_device
from autoseg.inference.export import LogitsPart, Watcher, check_probabilities, segment
from autoseg.inference.folder import RECORD, FolderJob
from autoseg.inference.instances import SegmentedObjects, segment_objects
from autoseg.inference.model import at_speed, compute_of
from autoseg.inference.opening import open_model
from autoseg.inference.quality import Judge
from autoseg.inference.slabs import SlabJob, needs_of
from autoseg.inference.speed import BEST, find_speed
from autoseg.locks import hold
from autoseg.options import parse_bytes
from autoseg.preprocessing.preprocess import PreprocessedCase
from autoseg.progress import say
from autoseg.run_folder import RunFolder, RunRecord, remove_leftovers
from autoseg.targets import make_target
from autoseg.targets.instance_target import InstanceTarget, with_decode
from planners import records


class Predictor:
    """A trained model, opened once: its networks stay on the device. ``read`` and ``segment`` may run in threads."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        compute: Compute | None = None,
        speed: str = BEST.name,
        max_ram: int | str | None = None,
        max_vram: int | str | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: run folder, ``MODEL.autoseg``, or what nnU-Net v2 trained: a model folder or one checkpoint.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            compute: device, precision and memory format where they are decided already.
            speed: name of a preset (``inference.speed.SPEEDS``): how much mirroring, overlap and how many folds.
            max_ram: main memory that the process may hold, in bytes or as ``6GB``; None: what the machine has. An image
                that does not fit is worked on in slabs, or refused before anything is done.
            max_vram: the same of the GPU's memory; it bounds batches, and where sums lie.

        Raises:
            ModelError: nothing is trained there, or its files do not go together.
            DeviceError: the device is not there.
            OptionError: no such speed, or no amount of memory.
        """
        chosen = find_speed(speed)
        self.memory = MemoryLimit(_bytes_of(max_ram, "--max-ram"))
        vram = _bytes_of(max_vram, "--max-vram")
        self.opened = open_model(Path(model))
        for note in self.opened.notes:
            say(f"  {note}")
        self.run = self.opened.run
        self.plan, whole = self.opened.select()
        self.selection = at_speed(whole, chosen)
        with self.opened.naming():
            self.judge = Judge(self.run, self.plan, whole)  # what it knows was learnt of all folds
            self._load(device, compute)
        bound_device(self.compute.device, vram)
        self.chain.vram_bytes = vram
        if chosen != BEST:
            say(f"  speed {chosen.text}")

    def _load(self, device: str, compute: Compute | None) -> None:
        self.compute = compute or compute_of(self.run, device)
        computing.prepare(self.compute)
        configurations = [configuration for configuration, _ in self.selection.folds]
        first = configurations[0]
        if any(configuration.target != first.target for configuration in configurations):
            names = ", ".join(configuration.name for configuration in configurations)
            raise ModelError(
                f"{names} have different targets and cannot be averaged. Choose one of them in choice.json"
            )
        record = with_decode(first.target, self.selection.decode)
        self.target = make_target(record, self.plan.labels, first.training)
        self.chain = Chain(self.plan, self.selection, self.compute)

    @property
    def num_networks(self) -> int:
        """Networks that segment an image; those that only feed a cascade are not counted."""
        return sum(len(folds) for _, folds in self.selection.folds)

    def read(self, image: Image) -> list[PreprocessedCase]:
        """Read an image and preprocess it for each step of the chain.

        Raises:
            ModelError: the image has another number of channels than the model.
            ImageError: it cannot be read or normalized.
        """
        return self.chain.preprocess(self.read_array(image), image.geometry.spacing_mm)

    def read_array(self, image: Image) -> np.ndarray:
        """Read an image's voxels: channels, z, y, x.

        Raises:
            ModelError: the image has another number of channels than the model.
            ImageError: it cannot be read.
        """
        self.check_channels(image)
        return image.read()

    def check_channels(self, image: Image) -> None:
        """Refuse an image that is not of the model's channels.

        Raises:
            ModelError: it has another number of them.
        """
        if image.num_channels != len(self.plan.channels):
            names = ", ".join(channel.name for channel in self.plan.channels)
            found = f"{image.num_channels} channel{'s' * (image.num_channels != 1)}"
            raise ModelError(
                f"{image.name} has {found}; {self.opened.path} needs {len(self.plan.channels)} ({names}). "
                "Give one file per channel, or one file that holds them all"
            )

    def needs(self, image: Image, ending: str, *, extras: str = "", each: bool = False) -> Needs:
        """Tell what memory an image needs, from its header (see ``slabs.needs_of``)."""
        rules = self.selection.postprocessing
        return needs_of(self.chain, self.target, image, rules, ending, extras=extras, each=each)

    def logits(
        self, prepared: Sequence[PreprocessedCase], what: str | None = None, *, each: bool = False
    ) -> list[LogitsPart]:
        """Run a preprocessed image through all networks; one part per chosen configuration, its folds averaged.

        Args:
            prepared: as ``read`` gives it.
            what: a phrase for the progress shown, or None for none.
            each: keep what every network says alone, too.
        """
        return self.chain.logits(prepared, what, each=each)

    def segment(
        self, parts: Sequence[LogitsPart], probabilities_file: Path | None = None, watch: Watcher | None = None
    ) -> np.ndarray:
        """Bring logits to a segmentation on the image's grid as read (z, y, x).

        Returns:
            The user's label values, postprocessed; of a model that tells objects apart their ids, int32, numbered 1, 2,
            … without gaps (see ``objects``).

        Raises:
            OptionError: probabilities are to be saved of a target that has none per voxel.
        """
        if self.target.finds_objects:
            if probabilities_file is not None:
                check_probabilities(self.target)
            return self.objects(parts).ids
        segmentation = segment(parts, self.target, self.plan, probabilities_file, self.compute.threads, watch)
        grid = parts[0].grid
        voxel = postprocessing.voxel_mm3(grid.shape_before_crop, grid.spacing_before_mm)
        return self.plan.labels.decode(postprocessing.apply(segmentation, self.selection.postprocessing, voxel))

    def objects(self, parts: Sequence[LogitsPart], *, consume: bool = False) -> SegmentedObjects:
        """Find objects in logits: ids on the image's grid as read (z, y, x), the class and mean probability of each.

        Args:
            parts: as ``logits`` gives them.
            consume: nobody needs the logits any more, and what they hold may be overwritten: less memory is needed.

        Raises:
            ModelError: the model segments classes and tells no objects apart.
        """
        if not isinstance(self.target, InstanceTarget):
            raise ModelError(
                f"{self.opened.path} segments classes and tells no objects apart. Use segment, or train with "
                '"instances" declared in dataset.json'
            )
        return segment_objects(parts, self.target, self.plan, consume=consume)

    def predict(self, image: Image, what: str | None = None) -> np.ndarray:
        """Segment one image; what is unfamiliar about it is said on the terminal.

        Returns:
            The user's label values, or ids of objects (see ``segment``), z, y, x, on the image's grid.

        Raises:
            AutosegError: as ``read`` and ``logits``; or no memory for it.
        """
        self.check_channels(image)
        if not self.memory.now().takes_whole(self.needs(image, ""), image.name):
            return self._predict_in_slabs(image, what)
        array = self.read_array(image)
        for warning in self.judge.look_at(array, image.geometry):
            say(f"  unlike the training cases: {image.name}: {warning}")
        return self.segment(self.logits(self.chain.preprocess(array, image.geometry.spacing_mm), what))

    def _predict_in_slabs(self, image: Image, what: str | None) -> np.ndarray:
        say(f"  {image.name}: in slabs, as memory does not hold it whole")
        with SlabJob(self.chain, self.target, image) as job:
            assert job.looked is not None
            for warning in self.judge.look_at_seen(job.looked, image.geometry):
                say(f"  unlike the training cases: {image.name}: {warning}")
            _, segmentation = job.segment(None, self.selection.postprocessing, what)
        assert segmentation is not None
        return segmentation


def _bytes_of(amount: int | str | None, option: str) -> int | None:
    return amount if amount is None or isinstance(amount, int) else parse_bytes(amount, option)


def predict(
    model: "str | os.PathLike[str] | Predictor",
    image: Any,
    spacing_mm: Sequence[float] | None = None,
    *,
    device: str = "auto",
    speed: str = BEST.name,
) -> Any:
    """Segment one image and give the segmentation as the image came.

    Args:
        model: as ``Predictor`` takes it, or an opened ``Predictor`` (to segment many images without loading its
            networks again).
        image: a path (file or DICOM folder; ``CASE_0000`` stands for the files of all channels), a list of paths (one
            per channel), a ``SimpleITK.Image``, or an array (z, y, x), (channel, z, y, x), and for 2D images (y, x),
            (channel, y, x).
        spacing_mm: of an array: z, y, x, or y, x for 2D; an array (y, x) without it is taken as 1 mm.
        device: where to compute.
        speed: ``best``, ``balanced`` or ``fast`` (see ``inference.speed``); an opened ``Predictor`` has its own.

    Returns:
        Label values; ids of objects where the model tells them apart (``Predictor.objects`` knows their classes). For
        an array an array (z, y, x), or (y, x) where that was 2D; else a ``SimpleITK.Image`` with the image's geometry.

    Raises:
        AutosegError: the model or the image is at fault; the message says what to do.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model, device=device, speed=speed)
    opened = _open(image, spacing_mm, [channel.name for channel in predictor.plan.channels])
    segmentation = predictor.predict(opened, "sliding window")
    if not isinstance(image, np.ndarray):
        return sitk_from_label(segmentation, opened.geometry)
    return segmentation[0] if opened.geometry.dimensions == 2 else segmentation


def _open(image: Any, spacing_mm: Sequence[float] | None, channel_names: Sequence[str]) -> Image:
    if isinstance(image, np.ndarray):
        if spacing_mm is None and image.ndim != 2:
            raise OptionError(
                "an array says nothing of its spacing: give spacing_mm=(z, y, x) in millimetres, or (y, x) in 2D"
            )
        return image_from_array(image, spacing_mm or (1.0, 1.0))
    if spacing_mm is not None:
        raise OptionError("spacing_mm is for arrays; a file or a SimpleITK image has its own spacing")
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return open_image(find_cases(path, channel_names)[0][0].images if path.is_file() else [path])
    if isinstance(image, list | tuple) and all(isinstance(item, str | os.PathLike) for item in image):
        return open_image([Path(item) for item in image])
    if hasattr(image, "GetNumberOfComponentsPerPixel"):
        return image_from_sitk(image)
    raise OptionError(
        f"a {type(image).__name__} is no image: give a path, a SimpleITK image, or a numpy array with spacing_mm"
    )


class Opening(TypedDict, total=False):
    """How ``predict_folder`` opens a model: options of ``Predictor``.

    Attributes:
        device: where to compute.
        speed: ``best``, ``balanced`` or ``fast`` (see ``inference.speed``).
        max_ram, max_vram: memory that may be taken, in bytes or as ``6GB``; see ``Predictor``.
    """

    device: str
    speed: str
    max_ram: int | str | None
    max_vram: int | str | None


def predict_folder(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    save_probabilities: bool = False,
    uncertainty: bool = False,
    **opening: Unpack[Opening],
) -> list[Path]:
    """Segment a folder of images, or one image, into a folder. What is there already is kept.

    Beside the segmentations lies ``quality.json``: the Dice that is predicted for each, and what is unfamiliar about
    its image. Where the model tells objects apart, segmentations hold their ids, and a map of classes, a table and
    outlines of the objects come with them (see ``inference.object_files``).

    Args:
        model: as ``Predictor`` takes it.
        images: image file, folder of images (see ``inference.cases``), DICOM series, or folder of DICOM series.
        output: folder; ``CASE.ext`` in the format that came in, or one that can hold labels (JPEG → PNG).
        overwrite: predict again what is there already.
        save_probabilities: write ``CASE.probabilities.npy`` too (see ``inference.export``).
        uncertainty: write ``CASE.entropy.ext`` and ``CASE.disagreement.ext`` too (see ``inference.uncertainty``).
        **opening: how the model is opened; see ``Opening``.

    Returns:
        The segmentations' files, those that were there included.

    Raises:
        ImageError: some images could not be segmented; the message lists them. The others are done.
        ModelError, OptionError: model and options do not go together; nothing was done.
    """
    predictor = Predictor(model, **opening)
    names = [channel.name for channel in predictor.plan.channels]
    cases, incomplete, notes = find_cases(Path(images), names)
    for note in notes:
        say(f"  {note}")
    wanted = {"save_probabilities": save_probabilities, "uncertainty": uncertainty}
    with _alone_in(Path(output)):
        job = FolderJob(predictor, Path(output), overwrite=overwrite, **wanted)
        return job.run(cases, incomplete)


def predict_cases(run: RunFolder, cases: Sequence[Case], output: Path) -> list[Path]:
    """Segment known cases with a run's own model; what another state of the model has written is written anew.

    Raises:
        ImageError: some images could not be segmented; the message lists them. The others are done.
    """
    recorded = run.read(RunRecord, run.run_file).compute if run.run_file.exists() else None
    compute = None if recorded is None else records.from_json(Compute, recorded)
    predictor = Predictor(run.root, compute=compute)
    with _alone_in(output):
        return FolderJob(predictor, output, replace_older=True).run(cases, {})


@contextlib.contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Wait until no other process segments into a folder: what it has done then need not be done again."""
    with hold(output / ".lock", wait=True, remove=True):
        if (output / RECORD).exists():  # or it is a folder of the user's, in which nothing is ours
            remove_leftovers(output, deep=False)
        yield
