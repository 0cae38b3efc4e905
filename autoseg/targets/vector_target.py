"""What flow and affinity share: some channels of geometry first, then one yes-or-no question per foreground class."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from autoseg.extensions import find
from autoseg.targets.base import pick_classes
from autoseg.targets.instance_target import InstanceTarget, mean_binary_entropy
from autoseg.targets.region_losses import REGION_LOSSES


class VectorTarget(InstanceTarget):
    """Channels of geometry, then the logit of each foreground class on its own (sigmoid)."""

    @property
    @abstractmethod
    def num_geometry(self) -> int:
        """Count the channels before the classes."""

    def class_output(self, index: int) -> int:
        """Give the output of a foreground class."""
        return self.num_geometry + index - 1

    def class_maps(self, classes: np.ndarray) -> np.ndarray:
        """Mark each foreground class: B × classes × space, float32 of 0 and 1."""
        return np.stack([classes == index for index in range(1, self.labels.num_classes)], axis=1).astype(np.float32)

    def class_loss(self, output: Tensor, wanted: Tensor, voxels: Tensor | None, annotated: Tensor | None) -> Tensor:
        """Give the plan's loss, in its binary form, on the class channels of one output."""
        function = find(REGION_LOSSES, "loss", self.training.loss)
        first = self.num_geometry
        counted = None if annotated is None else annotated[:, 1:]
        return function(output[:, first:], wanted[:, first:] > 0.5, voxels, counted, self.training.batch_dice)

    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of found classes over the whole batch, float64 per foreground class."""
        space = (1,) * (logits_BKZYX.dim() - 2)
        ((classes, voxels),) = pick_classes(label_BLZYX, [space], self.labels.ignore_index)
        kinds = torch.arange(1, self.labels.num_classes, device=classes.device).view(-1, *space)
        truth, guess = classes.unsqueeze(1) == kinds, logits_BKZYX[:, self.num_geometry :] > 0
        if voxels is not None:
            truth, guess = truth & voxels.unsqueeze(1), guess & voxels.unsqueeze(1)
        tp, found, there = (item.flatten(2).sum(2).double() for item in (truth & guess, guess, truth))
        if annotated is not None:
            counted = annotated[:, 1:].to(tp)
            tp, found, there = tp * counted, found * counted, there * counted
        both = tp.sum(0)
        return both, found.sum(0) - both, there.sum(0) - both

    def class_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of each class of instances."""
        return probabilities[[self.class_output(index) for index in self.instance_classes]]

    def foreground_probability(self, probabilities: np.ndarray) -> np.ndarray:
        """Take the most probable class of instances; they are asked for one by one."""
        most: np.ndarray = self.class_probabilities(probabilities).max(axis=0)
        return most

    def _background(self, probabilities: np.ndarray) -> np.ndarray:
        """Half: a class is there where its own question says yes."""
        return np.full(probabilities.shape[1:], 0.5, dtype=np.float32)

    def background_probabilities(self, num_outputs: int) -> list[float]:
        """No direction, no affinity, no class."""
        return [0.0] * num_outputs

    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """The mean entropy of the classes' yes-or-no questions; geometry has none."""
        return mean_binary_entropy(probabilities_KZYX[self.num_geometry :])
