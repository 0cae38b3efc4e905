"""The steps of a prediction: every configuration that takes part, those that feed a cascade before the cascade."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoseg.compute import Compute
from autoseg.inference.each_memory import EachNetwork, check_room
from autoseg.inference.export import LogitsPart
from autoseg.inference.model import Selection, Trained, group_folds, load_networks
from autoseg.inference.previous import previous_segmentation
from autoseg.inference.sliding_window import WindowOptions, predict_each
from autoseg.inference.windows import lay_windows
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.preprocess import PreprocessedCase, preprocess_case
from autoseg.targets import Target, make_target
from autoseg.targets.instance_target import with_decode
from planners.plan import Configuration, Plan


@dataclass(frozen=True, kw_only=True)
class Step:
    """One configuration of a chain.

    Attributes:
        configuration, target: what runs, as planned.
        groups: its networks, whose logits are averaged, by the configuration of their own; that differs from the plan's
            in network and patch where the program stepped down between two trainings.
        feeds: places in the chain of the steps that see its segmentation.
        members: places in the ensemble that it has; empty where it only feeds.
    """

    configuration: Configuration
    groups: list[tuple[Configuration, list[nn.Module]]]
    target: Target
    feeds: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def networks(self) -> list[nn.Module]:
        """All networks."""
        return [network for _, networks in self.groups for network in networks]


class Chain:
    """All networks that segment an image, on their device.

    A configuration that feeds a cascade and is a member of the ensemble too, with the same folds, runs once.

    Attributes:
        vram_bytes: of the GPU's memory that may be used; None: what is free.
    """

    vram_bytes: int | None = None

    def __init__(self, plan: Plan, selection: Selection, compute: Compute) -> None:
        """Load the networks.

        Raises:
            ModelError: weights are missing or damaged, or do not fit the networks of the plan.
        """
        self.plan, self.compute, self.weights, self.speed = plan, compute, selection.weights, selection.speed
        trained = [*selection.previous, *(item for item in selection.folds if item not in selection.previous)]
        self.steps = [self._step(place, trained, selection) for place in range(len(trained))]

    def _step(self, place: int, trained: Sequence[Trained], selection: Selection) -> Step:
        configuration, folds = trained[place]
        feeder = place < len(selection.previous)
        fed = [item.previous == configuration.name for item, _ in trained]
        # What feeds others decodes as planned: so it did when they were trained.
        record = with_decode(configuration.target, {} if feeder else selection.decode)
        return Step(
            configuration=configuration,
            groups=[(own, load_networks(own, part, self.compute)) for own, part in group_folds(configuration, folds)],
            target=make_target(record, self.plan.labels, configuration.training),
            feeds=tuple(index for index, found in enumerate(fed) if found and feeder),
            members=tuple(index for index, item in enumerate(selection.folds) if item == trained[place]),
        )

    def preprocess(self, image_CZYX: np.ndarray, spacing_mm: Sequence[float]) -> list[PreprocessedCase]:
        """Preprocess an image for every step; steps that preprocess alike share one result.

        Args:
            image_CZYX: as read.
            spacing_mm: z, y, x.

        Raises:
            ImageError: the image cannot be normalized.
        """
        made: dict[str, PreprocessedCase] = {}
        prepared = []
        for step in self.steps:
            kind = store_name(self.plan, step.configuration.name)
            if kind not in made:
                made[kind] = preprocess_case(image_CZYX, spacing_mm, self.plan, step.configuration)
            prepared.append(made[kind])
        return prepared

    def logits(
        self, prepared: Sequence[PreprocessedCase], what: str | None = None, *, each: bool = False
    ) -> list[LogitsPart]:
        """Run an image through all steps.

        The logits of a step that only feeds others are dropped as soon as it is decoded for them.

        Args:
            prepared: per step, the preprocessed image.
            what: a phrase for the progress shown, or None for none.
            each: keep what every network of the ensemble says alone, too.

        Returns:
            One part per configuration of the ensemble, its folds averaged.

        Raises:
            ImageError: as of ``check_room_for_each``.
        """
        if each:
            self.check_room_for_each(prepared)
        parts: dict[int, LogitsPart] = {}
        previous: dict[int, np.ndarray] = {}
        for place, (step, case) in enumerate(zip(self.steps, prepared, strict=True)):
            part = self._run(step, case, previous.pop(place, None), what, each=each and bool(step.members))
            for index in step.feeds:
                grid, by_label = prepared[index].grid, self.steps[index].configuration.previous_resampling
                previous[index] = previous_segmentation([part], step.target, grid, self.compute.threads, by_label)
            parts.update(dict.fromkeys(step.members, part))
        if not self.weights:
            return [parts[index] for index in sorted(parts)]
        return [dataclasses.replace(parts[index], weight=self.weights[index]) for index in sorted(parts)]

    def window_options(self, step: Step, *, each: bool = False) -> WindowOptions:
        """Say how the windows of a step are laid and what is done with each."""
        speed = self.speed
        return WindowOptions(
            mirror=speed.mirror, step=speed.step, flip=step.target.flip, vram_bytes=self.vram_bytes, each=each
        )

    def check_room_for_each(self, prepared: Sequence[PreprocessedCase]) -> None:
        """Refuse an image of which main memory cannot keep what every network of the ensemble says alone.

        Raises:
            ImageError: it cannot; the message says how much is needed and how much is free.
        """
        steps = []
        for step, case in zip(self.steps, prepared, strict=True):
            if step.members:
                extents = [lay_windows(case.grid.shape, own).extent for own, _ in step.groups]
                voxels = step.configuration.target.num_outputs * max(map(math.prod, extents))
                groups, count = len(step.groups), len(step.networks)
                steps.append(EachNetwork(num_networks=count, num_groups=groups, voxels=voxels))
        check_room(steps, sums_on_host=not self.compute.device.startswith("cuda"))

    def _run(
        self, step: Step, case: PreprocessedCase, previous_ZYX: np.ndarray | None, what: str | None, *, each: bool
    ) -> LogitsPart:
        shown = f"{what}, {step.configuration.name}" if what and len(self.steps) > 1 else what
        previous = None if previous_ZYX is None else torch.from_numpy(previous_ZYX)
        image, options = torch.from_numpy(case.image_CZYX), self.window_options(step, each=each)
        count, logits = len(step.networks), torch.zeros(())
        alone: list[np.ndarray] = []
        for own, networks in step.groups:
            found, single = predict_each(networks, image, own, self.compute, options, shown, previous)
            alone += [item.numpy() for item in single]
            logits = found if len(networks) == count else logits + found * (len(networks) / count)
        return LogitsPart(
            logits_KZYX=logits.numpy(),
            grid=case.grid,
            resampling=step.configuration.resampling,
            alone_KZYX=tuple(alone),
        )
