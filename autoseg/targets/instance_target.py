"""What all targets of instances share: where ids come from, which classes have them, decoding whole or in blocks."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from autoseg.evaluation.overlap import structures_of
from autoseg.targets.base import Strides, Target, softmax_entropy
from autoseg.targets.blockwise import decode_blocks
from autoseg.targets.decode_watershed import WatershedOptions, decode_components
from autoseg.targets.object_maps import OpenSides, number_objects
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training
from planners.possible import check_options, is_number
from planners.records import PlanError

WHOLE_VOXELS = 1 << 25  # decoded at once, about 1 GB of maps and what decoding needs beside them; more goes in blocks
BLOCK_SIDE = {2: 2048, 3: 256}
DIAMETER = 30.0  # voxels, where the plan names none; Cellpose's usual nucleus to cell
MARGIN_DIAMETERS = 2.0  # around a block: an object that is cut by its border is then seen whole

FOREGROUNDS = (0.3, 0.4, 0.5, 0.6, 0.7)
SMALLEST = (0.0, 0.01, 0.03, 0.1)
"""Values that decoders are offered to fit: probabilities of the foreground, and shares of a median object that an
object must have. Assumption: a coarse grid around the middle, for what a network is unsure of differs by dataset."""

Options = TypeVar("Options")


class DecodeOptions(Protocol):
    """What the settings of all decoders have: ``foreground``, how sure a voxel must be, and ``smallest``, in voxels."""

    @property
    def foreground(self) -> float:
        """Probability above which a voxel belongs to some object."""

    @property
    def smallest(self) -> int:
        """Voxels of the smallest object that is kept."""


@dataclass(frozen=True)
class Instances:
    """The objects of an image.

    Attributes:
        ids: int32 z, y, x: 1, 2, … without gaps, 0 for background.
        classes: per id (0 first) the inner class index.
    """

    ids: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Layers:
    """Label layers as targets of instances see them, B × space.

    Attributes:
        classes: inner class indices, int64; 0 outside the nonzero mask and where ignored.
        ids: of the objects, int32, numbered 1, 2, … in each sample; 0 where a voxel belongs to none, and −1 where
            nobody knows: beyond the image, and where ignored.
        annotated: False where ignored; None where every voxel counts.
    """

    classes: np.ndarray
    ids: np.ndarray
    annotated: np.ndarray | None


class InstanceTarget(Target):
    """A target whose decoding gives ids of objects instead of classes.

    ``encode`` finds the classes in layer 0 of the labels, as every target does, and the ids of the objects in layer 1:
    any integers, equal ids are one object, 0 is none, and below 0 lies beyond the image. Only voxels of a class that
    has instances belong to objects, whatever layer 1 holds elsewhere. Ids and classes are transformed together by the
    augmentation, as integers. Objects that the patch cuts are encoded from what is visible.

    The plan's options that all of them know (their own are named in each class):
        dimensions: axes of the space, 2 or 3; 3 where it is not named.
        spacing: of the preprocessed voxels per axis, in any unit; equal where it is not named.
        diameter: median diameter of the objects in voxels of the finest axis; sets ``margin``.
        decode: settings of the decoder by name; those that are tuned out of fold.
    """

    criterion = "f1"
    pointwise = False
    finds_objects = True
    known_options: tuple[str, ...] = ()
    options: DecodeOptions
    """Settings of the decoder."""

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind to a plan's record.

        Raises:
            PlanError: an option is unknown or impossible, or a class of instances does not exist.
        """
        super().__init__(record, labels, training)
        known = ("dimensions", "spacing", "diameter", "decode", *self.known_options)
        if strange := sorted(set(record.options) - set(known)):
            raise PlanError(f"target {record.name} has no option {strange[0]}; it knows {', '.join(known)}")
        self.dimensions = dimensions_of(record.options)
        check_options(record.options, self.dimensions, f"option {{}} of target {record.name}")
        spacing, diameter = record.options.get("spacing"), float(record.options.get("diameter", DIAMETER))
        self.spacing = None if spacing is None else tuple(float(value) for value in spacing)
        self.diameter, self.margin = diameter, math.ceil(MARGIN_DIAMETERS * diameter)
        if strange := sorted(set(labels.instance_classes) - set(labels.names[1:])):
            raise PlanError(
                f"class {strange[0]} is to have instances, and is none of the classes "
                f"({', '.join(labels.names[1:])}); correct instance_classes"
            )
        self.instance_classes = tuple(
            index
            for index, name in enumerate(labels.names)
            if index and (not labels.instance_classes or name in labels.instance_classes)
        )

    @abstractmethod
    def decode_objects(self, probabilities: np.ndarray, open_sides: OpenSides | None) -> np.ndarray:
        """Find the objects in probabilities (K × y, x or z, y, x of the target's dimensions): ids 1, 2, …, int32."""

    @abstractmethod
    def class_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of each class of instances, classes × space."""

    @abstractmethod
    def foreground_probability(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of belonging to any object, float32 of the space.

        The dense form of ``boundary`` cannot tell boundary from background: there it is that of the inner parts alone,
        and ``mean_probability`` of the tables is low for small objects, however sure the network is.
        """

    @abstractmethod
    def decode_choices(self) -> dict[str, tuple[Any, ...]]:
        """Offer values for settings of the decoder, to be fitted on out-of-fold predictions.

        Returns:
            Per setting the values other than that of this target; those that matter most first.
        """

    def other_values(self, options: Any, offered: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
        """Leave out the values that settings have already, and sizes that are offered as shares of an object's.

        Args:
            options: the decoder's settings as they are.
            offered: values per setting; of ``smallest`` shares of the object of median diameter.
        """
        finest = [1.0] if self.spacing is None else [value / min(self.spacing) for value in self.spacing]
        size = math.pi / (4 if self.dimensions == 2 else 6) * self.diameter**self.dimensions / math.prod(finest)
        in_voxels = {"smallest": [max(round(share * size), 1) for share in offered.get("smallest", ())]}
        found = {name: in_voxels.get(name, list(values)) for name, values in offered.items()}
        return {
            name: tuple(value for value in dict.fromkeys(values) if value != getattr(options, name))
            for name, values in found.items()
        }

    @property
    def has_others(self) -> bool:
        """Tell whether some foreground classes have no instances; they are segmented as classes."""
        return len(self.instance_classes) + 1 < self.labels.num_classes

    def other_classes(self, probabilities: np.ndarray) -> np.ndarray:
        """Find the classes without instances: their inner indices, 0 elsewhere, in the smallest type.

        One of them is where it is more probable than background, any object, and the others of them.
        """
        others = self._others()
        rivals = np.maximum(self._background(probabilities), self.foreground_probability(probabilities))
        values = probabilities[[self.class_output(index) for index in others]]
        best = np.array(others, dtype=np.min_scalar_type(self.labels.num_classes))[values.argmax(axis=0)]
        return np.where(values.max(axis=0) > rivals, best, 0).astype(best.dtype, copy=False)

    def _others(self) -> list[int]:
        return [index for index in range(1, self.labels.num_classes) if index not in self.instance_classes]

    def _background(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of background, whose output is the first one of a softmax."""
        background: np.ndarray = probabilities[0]
        return background

    def instances(self, probabilities_KZYX: np.ndarray) -> Instances:
        """Decode averaged probabilities into objects and their classes.

        Of a target of two dimensions each slice is decoded alone; no object reaches from one slice into another.
        """
        ids = self._in_slices(probabilities_KZYX, self._objects)
        return Instances(ids, self._classes_of(ids, probabilities_KZYX))

    def components(self, probabilities_KZYX: np.ndarray) -> Instances:
        """Call what is connected an object: what the foreground alone would give, for comparison.

        How sure a voxel must be, and how large an object, is as in the decoder that it is compared with. Where that
        takes every voxel (``foreground`` 0), the one must be more probable than not.
        """
        usual = WatershedOptions()
        options = WatershedOptions(
            foreground=self.options.foreground or usual.foreground, smallest=self.options.smallest
        )

        def decode(part: np.ndarray) -> np.ndarray:
            return decode_components(self.foreground_probability(part), options)

        ids = self._in_slices(probabilities_KZYX, decode)
        return Instances(ids, self._classes_of(ids, probabilities_KZYX))

    def _in_slices(self, probabilities_KZYX: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Decode maps whole, or slice by slice where they have an axis more than the target."""
        if probabilities_KZYX.ndim - 1 == self.dimensions:
            return decode(probabilities_KZYX)
        ids = np.empty(probabilities_KZYX.shape[1:], dtype=np.int32)
        count = 0
        for z in range(len(ids)):
            part = decode(np.asarray(probabilities_KZYX[:, z]))
            ids[z] = np.where(part > 0, part + count, 0)
            count += int(part.max(initial=0))
        return ids

    def decode(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Turn logits into ids of objects z, y, x, int32; their classes are in ``instances``."""
        return self.decode_probabilities(self.probabilities(logits_KZYX))

    def decode_probabilities(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Turn (averaged) probabilities into ids of objects, int32."""
        return self.instances(probabilities_KZYX).ids

    def layers(self, label_BLZYX: Tensor, *, with_ids: bool = True) -> Layers:
        """Read classes and ids from label layers; a voxel of a class of instances without id is background.

        Raises:
            PlanError: there is no layer of ids.
        """
        classes = label_BLZYX[:, 0].cpu().numpy().astype(np.int64)
        ignore = self.labels.ignore_index
        annotated = None if ignore is None else classes != ignore
        classes = np.maximum(classes, 0) if annotated is None else np.maximum(classes, 0) * annotated
        if not with_ids:
            return Layers(classes, np.zeros(0, dtype=np.int32), annotated)
        if label_BLZYX.shape[1] < 2:
            raise PlanError(
                f"target {self.name} needs the ids of instances in layer 1 of the stored labels, and there is only "
                "layer 0; preprocess the dataset again with its classes of instances declared"
            )
        belongs = np.isin(classes, self.instance_classes)
        given = label_BLZYX[:, 1].cpu().numpy()
        ids = given * belongs
        # Where two objects and background meet, the vote of an interpolated label may be for the class and for no id.
        classes = np.where(belongs & (ids <= 0), 0, classes)
        numbered = np.stack([number_objects(sample)[0] for sample in ids])
        numbered[given < 0 if annotated is None else (given < 0) | ~annotated] = -1
        return Layers(classes, numbered, annotated)

    def structure_outputs(self) -> tuple[tuple[int, ...], ...]:
        """A class has its own output; a region those of its classes."""
        return tuple(tuple(self.class_output(k) for k in item.classes) for item in structures_of(self.labels))

    def class_output(self, index: int) -> int:
        """Give the output of a foreground class."""
        return index

    def swaps(self) -> list[tuple[int, int]]:
        """Give the pairs of outputs that change places with left and right."""
        return [(self.class_output(a), self.class_output(b)) for a, b in self.training.mirror_swaps]

    def _objects(self, probabilities: np.ndarray) -> np.ndarray:
        shape = probabilities.shape[1:]
        if math.prod(shape) <= WHOLE_VOXELS:
            return self.decode_objects(probabilities, None)
        block = (BLOCK_SIDE[self.dimensions],) * self.dimensions
        return decode_blocks(probabilities, self.decode_objects, block, self.margin)

    def _classes_of(self, ids: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Give each object the class that is the most probable in it."""
        count = int(ids.max(initial=0))
        order = np.array(self.instance_classes)
        if len(order) == 1:
            best = np.zeros(count + 1, dtype=np.int64)
        else:
            flat = ids.ravel()
            sums = [np.bincount(flat, item.ravel(), count + 1) for item in self.class_probabilities(probabilities)]
            best = np.argmax(sums, axis=0)
        classes = order[best].astype(np.min_scalar_type(self.labels.num_classes))
        classes[0] = 0
        return classes


def with_decode(record: TargetRecord, settings: Mapping[str, Any]) -> TargetRecord:
    """Give a plan's target other settings of its decoder; those that are not named stay."""
    if not settings:
        return record
    return replace(record, options={**record.options, "decode": {**record.options.get("decode", {}), **settings}})


def dimensions_of(options: Mapping[str, Any]) -> int:
    """Read the number of axes from a target's options.

    Raises:
        PlanError: it is neither 2 nor 3.
    """
    if (dimensions := options.get("dimensions", 3)) not in (2, 3):
        raise PlanError(f"option dimensions of a target is {dimensions}; give 2 or 3")
    return int(dimensions)


def decode_options(kind: type[Options], record: TargetRecord) -> Options:
    """Make a decoder's settings from the plan's options.

    Raises:
        PlanError: there is no setting of a name, or it is no number of its kind.
    """
    given = record.options.get("decode", {})
    known = {item.name: item.default for item in fields(kind)}  # type: ignore[arg-type]
    if strange := sorted(set(given) - set(known)):
        raise PlanError(f"target {record.name} decodes without a setting {strange[0]}; it knows {', '.join(known)}")
    for name, value in given.items():
        counts = isinstance(known[name], int)
        if not is_number(value) or (counts and (not isinstance(value, int) or value < 0)):
            fit = "a whole number from 0" if counts else "a number"
            raise PlanError(f"option decode.{name} of target {record.name} is {value!r}; give {fit}")
    return kind(**given)


def at_strides(maps: np.ndarray, strides: Strides, device: torch.device) -> list[Tensor]:
    """Pick the middle of each stride's cell, as ``base.pick_classes`` does, from maps whose last axes are the space."""
    tensor = torch.from_numpy(maps).to(device)
    picked = []
    for stride in strides:
        cells: tuple[Any, ...] = (..., *(slice(step // 2, None, step) for step in stride))
        picked.append(tensor[cells].contiguous())
    return picked


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, float32."""
    with np.errstate(over="ignore"):  # of exp(−x): the quotient is 0 then, as it should be
        result: np.ndarray = 1 / (1 + np.exp(-values, dtype=np.float32))
    return result


def mean_binary_entropy(probabilities: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Give the mean entropy of separate yes-or-no questions (first axis), each divided by ln 2."""
    pairs = [softmax_entropy(np.stack([item, 1 - item])) for item in probabilities]
    return np.asarray(np.mean(pairs, axis=0), dtype=np.float32)
