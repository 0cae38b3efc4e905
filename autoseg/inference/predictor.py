"""Segment new images with what a run has trained.

``Predictor`` opens a model once for as many images as there are; ``predict`` takes one image in memory or on disk,
``predict_folder`` whole folders.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.cases import Case
from autoseg.data.io import Image, image_from_array, image_from_sitk, open_image, sitk_from_label
from autoseg.errors import ModelError, OptionError
from autoseg.evaluation import postprocessing
from autoseg.inference.cases import find_cases
from autoseg.inference.chain import Chain
from autoseg.inference.export import LogitsPart, Watcher, check_probabilities, segment
from autoseg.inference.folder import FolderJob
from autoseg.inference.instances import SegmentedObjects, segment_objects
from autoseg.inference.model import compute_of
from autoseg.inference.opening import open_model
from autoseg.inference.quality import Judge
from autoseg.preprocessing.preprocess import PreprocessedCase
from autoseg.progress import say
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.targets import make_target
from autoseg.targets.instance_target import InstanceTarget, with_decode
from planners import records


class Predictor:
    """A trained model, opened once: its networks stay on the device. ``read`` and ``segment`` may run in threads."""

    def __init__(self, model: str | os.PathLike[str], *, device: str = "auto", compute: Compute | None = None) -> None:
        """Open a model.

        Args:
            model: run folder, ``MODEL.autoseg``, or what nnU-Net v2 trained: a model folder or one checkpoint.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            compute: device, precision and memory format where they are decided already.

        Raises:
            ModelError: nothing is trained there, or its files do not go together.
            DeviceError: the device is not there.
        """
        self.opened = open_model(Path(model))
        for note in self.opened.notes:
            say(f"  {note}")
        self.run = self.opened.run
        self.plan, self.selection = self.opened.select()
        with self.opened.naming():
            self._load(device, compute)

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
        self.judge = Judge(self.run, self.plan, self.selection)
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
        if image.num_channels != len(self.plan.channels):
            names = ", ".join(channel.name for channel in self.plan.channels)
            found = f"{image.num_channels} channel{'s' * (image.num_channels != 1)}"
            raise ModelError(
                f"{image.name} has {found}; {self.opened.path} needs {len(self.plan.channels)} ({names}). "
                "Give one file per channel, or one file that holds them all"
            )
        return image.read()

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
            AutosegError: as ``read`` and ``logits``.
        """
        array = self.read_array(image)
        for warning in self.judge.look_at(array, image.geometry):
            say(f"  unlike the training cases: {image.name}: {warning}")
        return self.segment(self.logits(self.chain.preprocess(array, image.geometry.spacing_mm), what))


def predict(
    model: "str | os.PathLike[str] | Predictor",
    image: Any,
    spacing_mm: Sequence[float] | None = None,
    *,
    device: str = "auto",
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

    Returns:
        Label values; ids of objects where the model tells them apart (``Predictor.objects`` knows their classes). For
        an array an array (z, y, x), or (y, x) where that was 2D; else a ``SimpleITK.Image`` with the image's geometry.

    Raises:
        AutosegError: the model or the image is at fault; the message says what to do.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model, device=device)
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


def predict_folder(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    save_probabilities: bool = False,
    uncertainty: bool = False,
    device: str = "auto",
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
        device: where to compute.

    Returns:
        The segmentations' files, those that were there included.

    Raises:
        ImageError: some images could not be segmented; the message lists them. The others are done.
        ModelError, OptionError: model and options do not go together; nothing was done.
    """
    predictor = Predictor(model, device=device)
    names = [channel.name for channel in predictor.plan.channels]
    cases, incomplete, notes = find_cases(Path(images), names)
    for note in notes:
        say(f"  {note}")
    wanted = {"save_probabilities": save_probabilities, "uncertainty": uncertainty}
    job = FolderJob(predictor, Path(output), overwrite=overwrite, **wanted)
    return job.run(cases, incomplete)


def predict_cases(run: RunFolder, cases: Sequence[Case], output: Path) -> list[Path]:
    """Segment known cases with a run's own model; what another state of the model has written is written anew.

    Raises:
        ImageError: some images could not be segmented; the message lists them. The others are done.
    """
    recorded = run.read(RunRecord, run.run_file).compute if run.run_file.exists() else None
    compute = None if recorded is None else records.from_json(Compute, recorded)
    return FolderJob(Predictor(run.root, compute=compute), output, replace_older=True).run(cases, {})
