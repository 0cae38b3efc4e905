"""The regions target: unions of classes that may overlap, each predicted on its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.extensions import find
from autoseg.targets.base import Strides, Target, mirror, pick_classes, sum_over_outputs
from autoseg.targets.region_losses import REGION_LOSSES
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training
from planners.records import PlanError
from planners.regions import Stroke, membership, painting, representatives
from planners.sides import region_swaps

LEAST_PROBABILITY = 1e-7  # of a region, where its logit is asked for: float32 next to 1 has steps of 6e-8


class RegionsTarget(Target):
    """One logit per region; sigmoid; a region is found where it is more probable than not.

    The way back to one class per voxel is that of ``planners/regions.py``.
    """

    name = "regions"
    criterion = "dice"

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Derive which classes each region holds, and the way back.

        Raises:
            PlanError: the labels have no regions.
        """
        super().__init__(record, labels, training)
        if not labels.regions:
            raise PlanError("target regions needs labels with regions; declare some, or use the target semantic")
        self.table = membership(labels)
        self.strokes = painting(labels)
        self.swaps = region_swaps(labels, training.mirror_swaps) or ()

    @property
    def is_unanimous(self) -> bool:
        """Of painting, where no two strokes paint one class: the last stroke whose region was found decides."""
        return self.strokes is not None and len({stroke.index for stroke in self.strokes}) == len(self.strokes)

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the regions."""
        return len(labels.regions)

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Mark the regions of the class in the middle of each stride's cell, bool; ignored voxels weigh nothing."""
        table = torch.from_numpy(self.table).to(label_BLZYX.device)
        maps: list[Tensor] = []
        weights: list[Tensor | None] = []
        for classes, annotated in pick_classes(label_BLZYX, strides, self.labels.ignore_index):
            maps.append(torch.stack([row[classes] for row in table], dim=1))
            weights.append(annotated)
        return maps, weights

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the plan's loss, in its binary form, over the outputs."""
        function = find(REGION_LOSSES, "loss", self.training.loss)
        counted = self._counted(annotated, outputs[0].device)

        def of_output(output: Tensor, found: Tensor, voxels: Tensor | None) -> Tensor:
            return function(output, found, voxels, counted, self.training.batch_dice)

        return sum_over_outputs(of_output, outputs, maps, weights, output_weights)

    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of found regions over the whole batch, float64 per region."""
        (maps,), (voxels,) = self.encode(label_BLZYX, [(1,) * (logits_BKZYX.dim() - 2)])
        found = logits_BKZYX > 0
        if voxels is not None:
            found, maps = found & voxels.unsqueeze(1), maps & voxels.unsqueeze(1)
        both, guess, truth = (item.flatten(2).sum(2).double() for item in (found & maps, found, maps))
        counted = self._counted(annotated, both.device)
        if counted is not None:
            both, guess, truth = both * counted, guess * counted, truth * counted
        tp, guess, truth = both.sum(0), guess.sum(0), truth.sum(0)
        return tp, guess - tp, truth - tp

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes; regions of a left and a right side change places."""
        return mirror(maps, axes, self.swaps, self.training.mirror_swap_axis)

    def decode(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Give each voxel the class whose regions were found there."""
        if self.strokes is not None:
            return self._paint(self.strokes, logits_KZYX, 0.0)
        return self._best_agreement(logits_KZYX)

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Sigmoid, region by region."""
        with np.errstate(over="ignore"):  # of exp(−x): the quotient is 0 then, as it should be
            shifted = np.exp(-logits_KZYX, dtype=np.float32)
        shifted += 1
        result: np.ndarray = np.reciprocal(shifted, out=shifted)
        return result

    def decode_probabilities(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Give each voxel the class whose regions are probable there, by the rule of ``decode``."""
        if self.strokes is not None:
            return self._paint(self.strokes, probabilities_KZYX, 0.5)
        clipped = np.clip(probabilities_KZYX, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return self._best_agreement(np.log(clipped / (1 - clipped)))

    def background_probabilities(self, num_outputs: int) -> list[float]:
        """Only regions that hold background are certain."""
        return [float(value) for value in self.table[:, 0]]

    def structure_outputs(self) -> tuple[tuple[int, ...], ...]:
        """Every region has its own output."""
        return tuple((index,) for index in range(len(self.labels.regions)))

    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """The regions are separate yes-or-no questions: the mean of their entropies, each divided by ln 2."""
        total = np.zeros(probabilities_KZYX.shape[1:], dtype=np.float32)
        for probability in probabilities_KZYX:
            for share in (probability, 1 - probability):
                total -= share * np.log(np.maximum(share, np.float32(LEAST_PROBABILITY)))
        total /= np.float32(len(probabilities_KZYX) * np.log(2))
        return np.clip(total, 0, 1, out=total)

    def _counted(self, annotated: Tensor | None, device: torch.device) -> Tensor | None:
        """Tell which regions count in which sample: those all of whose classes are annotated.

        A region that holds background counts only where every class is, since background may hide any of the others.
        """
        if annotated is None:
            return None
        needed = torch.from_numpy(self.table | self.table[:, :1])
        return (annotated.cpu().unsqueeze(1) | ~needed).all(2).to(device)

    def _paint(self, strokes: Sequence[Stroke], values_KZYX: np.ndarray, limit: float) -> np.ndarray:
        dtype = np.min_scalar_type(self.labels.num_classes)
        result = np.zeros(values_KZYX.shape[1:], dtype=dtype)
        for stroke in strokes:
            np.copyto(result, dtype.type(stroke.index), where=values_KZYX[stroke.region] > limit)
        return result

    def _best_agreement(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Take the class with the largest sum of logits, those of regions without it counted as negative.

        The sum over the class's own regions decides as well, since the sum over all regions is the same for all.
        """
        dtype = np.min_scalar_type(self.labels.num_classes)
        index = np.zeros(logits_KZYX.shape[1:], dtype=dtype)
        best: np.ndarray | None = None
        for candidate in sorted(set(representatives(self.labels))):
            score = np.zeros(logits_KZYX.shape[1:], dtype=np.float32)
            for region in np.flatnonzero(self.table[:, candidate]):
                score += logits_KZYX[region]
            if best is None:
                best, index[...] = score, candidate
                continue
            larger = score > best
            np.copyto(index, dtype.type(candidate), where=larger)
            np.copyto(best, score, where=larger)
        return index
