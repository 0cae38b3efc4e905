"""An image that memory does not hold whole, from its file to its segmentation in slabs along its first axis.

Slices are read, normalized and resampled as the sliding window needs them; their logits are decoded as soon as they are
final, and written. Segmentations equal those of the whole way but for voxels where two classes are equal to rounding.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autoseg.compute import Compute
from autoseg.data.image import Image
from autoseg.data.regions import in_regions
from autoseg.errors import ModelError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.postprocessing_slabs import why_no_slabs
from autoseg.inference.case_memory import Member, Needs, slab_bytes, whole_bytes
from autoseg.inference.chain import Chain, Step
from autoseg.inference.confidence import ConfidenceWatcher, WatchedCase
from autoseg.inference.export import LogitsPart, Slab, cut_slabs, decode_slab
from autoseg.inference.label_sinks import HeldLabels, StreamedLabels, open_sink
from autoseg.inference.previous import previous_segmentation
from autoseg.inference.sliding_rows import AveragedRows, LogitsRows, NotFiniteError
from autoseg.preprocessing.looking import Looked, look_at
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.rows import CroppedRows, PreparedRows, inside_mask, needs_mask, why_no_rows
from autoseg.progress import meter, warn
from autoseg.targets import Target
from planners.plan import Plan


class SlabJob:
    """One image in slabs. The temporary folder holds what of it had to be unpacked, as long as the context lasts."""

    def __init__(self, chain: Chain, target: Target, image: Image, scratch: Path | None = None) -> None:
        """Prepare to read.

        Args:
            chain: the networks.
            target: of the ensemble.
            image: as opened.
            scratch: folder for a temporary folder; None: the system's.
        """
        self.chain, self.target, self.opened = chain, target, image
        self._folder = tempfile.TemporaryDirectory(dir=scratch, prefix=".autoseg-")
        self.image: Image = image
        self.looked: Looked | None = None

    def __enter__(self) -> "SlabJob":
        """Unpack and look at the image."""
        try:
            self.image = in_regions(self.opened, Path(self._folder.name))
            self.looked = look_at(self.image)
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *fault: object) -> None:
        """Remove what was unpacked."""
        self._folder.cleanup()

    def segment(
        self, path: Path | None, rules: Sequence[Postprocessing], what: str | None = None
    ) -> tuple[WatchedCase, np.ndarray | None]:
        """Segment the image.

        Args:
            path: file to write, in the image's format; None: give the map.
            rules: of postprocessing.
            what: a phrase for the progress shown, or None for none.

        Returns:
            What was watched for the predicted Dice; the user's label values z, y, x as read, where no file is written.

        Raises:
            ImageError: the image cannot be read or normalized, or the file not written.
            ModelError: the logits are not finite even in float32.
        """
        prepared = self._prepare()
        try:
            return self._segment(path, rules, prepared, self.chain.compute, what)
        except NotFiniteError:
            if self.chain.compute.precision == "fp32":
                raise ModelError(_NOT_FINITE) from None
        warn(f"  logits not finite in {self.chain.compute.precision}; this image again in fp32")
        exact = dataclasses.replace(self.chain.compute, precision="fp32")
        try:
            return self._segment(path, rules, prepared, exact, what)
        except NotFiniteError:
            raise ModelError(_NOT_FINITE) from None

    def _prepare(self) -> list[PreparedRows]:
        assert self.looked is not None, "the context is entered"
        plan, steps = self.chain.plan, self.chain.steps
        cropped = CroppedRows(self.image, self.looked, plan.axis_order)
        mask = inside_mask(cropped) if any(needs_mask(step.configuration) for step in steps) else None
        made: dict[str, PreparedRows] = {}
        for step in steps:
            kind = store_name(plan, step.configuration.name)
            if kind not in made:
                spacing = self.image.geometry.spacing_mm
                made[kind] = PreparedRows(cropped, mask, spacing, plan, step.configuration)
        return [made[store_name(plan, step.configuration.name)] for step in steps]

    def _segment(
        self,
        path: Path | None,
        rules: Sequence[Postprocessing],
        prepared: Sequence[PreparedRows],
        compute: Compute,
        what: str | None,
    ) -> tuple[WatchedCase, np.ndarray | None]:
        plan, grid = self.chain.plan, prepared[0].grid
        parts = logits_on_demand(self.chain, prepared, compute, what)
        watcher = ConfidenceWatcher(self.target, plan.labels)
        with open_sink(path, plan, grid, self.image.geometry, rules) as sink:
            self._decode(parts, plan, sink, watcher)
        if path is None:
            assert isinstance(sink, HeldLabels)
            return watcher.result(), plan.labels.decode(sink.classes_ZYX)
        return watcher.result(), None

    def _decode(
        self, parts: Sequence[LogitsPart], plan: Plan, sink: StreamedLabels | HeldLabels, watcher: ConfidenceWatcher
    ) -> None:
        """Decode slab after slab in their order: what gives the logits forgets what lies behind."""
        grid, weights = parts[0].grid, [part.weight for part in parts]
        resamplers = [part.onto(grid.shape_after_crop, grid.spacing_before_mm) for part in parts]
        for start, stop in cut_slabs(grid.shape_after_crop, len(parts[0].logits_KZYX)):
            logits = [item.slab(start, stop) for item in resamplers]
            classes, probabilities = decode_slab(logits, self.target, True, weights)
            assert probabilities is not None
            order = plan.axis_order
            watcher(Slab(start=start, stop=stop, probabilities_KZYX=probabilities, segmentation_ZYX=classes, grid=grid,
                         axis_order=order))  # fmt: skip
            sink.put(start, stop, classes)


_NOT_FINITE = (
    "the networks give logits that are not finite for this image. Look for extreme or non-finite voxels in the image; "
    "if all images are like this, the weights are damaged"
)


def logits_on_demand(
    chain: Chain, prepared: Sequence[PreparedRows], compute: Compute, what: str | None = None
) -> list[LogitsPart]:
    """Give what the chain's networks say of an image, slice by slice; what feeds a cascade is decoded at once.

    Args:
        chain: the networks.
        prepared: per step, the preprocessed image.
        compute: device and precision.
        what: a phrase for the progress shown, or None for none.

    Returns:
        One part per configuration of the ensemble, its folds averaged.
    """
    parts: dict[int, LogitsPart] = {}
    previous: dict[int, np.ndarray] = {}
    for place, (step, case) in enumerate(zip(chain.steps, prepared, strict=True)):
        for index in step.feeds:  # a pass of its own: logits are given once, from the first slice to the last
            part = _part(chain, step, case, compute, previous.get(place), what)
            previous[index] = previous_segmentation([part], step.target, prepared[index].grid)
        if step.members:
            part = _part(chain, step, case, compute, previous.get(place), what)
            parts.update(dict.fromkeys(step.members, part))
    weights = chain.weights or [1.0] * len(parts)
    return [dataclasses.replace(parts[index], weight=weights[index]) for index in sorted(parts)]


def _part(
    chain: Chain, step: Step, case: PreparedRows, compute: Compute, previous_ZYX: np.ndarray | None, what: str | None
) -> LogitsPart:
    options = chain.window_options(step)
    shape, count = case.grid.shape, len(step.networks)
    rows = [
        LogitsRows(networks, case.rows, shape, own, compute, options, previous_ZYX) for own, networks in step.groups
    ]
    shown = f"{what}, {step.configuration.name}" if what and len(chain.steps) > 1 else what
    tick = _ticker(sum(item.num_passes for item in rows), shown)
    for item in rows:
        item.tick = tick
    logits = rows[0] if len(rows) == 1 else AveragedRows(rows, [len(own) / count for _, own in step.groups])
    return LogitsPart(logits_KZYX=logits, grid=case.grid, resampling=step.configuration.resampling)


def _ticker(total: int, what: str | None) -> Callable[[int], None]:
    """Show progress; the last pass ends it."""
    if what is None:
        return lambda passes: None
    tick, done = meter(total, what), 0

    def step(passes: int) -> None:
        nonlocal done
        done += passes
        tick(passes)
        if done == total:
            tick(0)

    return step


def needs_of(
    chain: Chain, target: Target, image: Image, rules: Sequence[Postprocessing], ending: str, *, extras: str = "",
    each: bool = False,
) -> Needs:  # fmt: skip
    """Tell what an image needs whole and in slabs, from its header.

    Args:
        chain: the networks.
        target: of the ensemble.
        image: as opened.
        rules: of postprocessing.
        ending: of the file to write; empty for an array.
        extras: what is asked for beside the segmentation, for which slabs are not made; empty: nothing.
        each: what every network says alone is kept.
    """
    members = [
        Member(
            configurations=tuple(own for own, _ in step.groups),
            kept=bool(step.members),
            fed=step.configuration.previous is not None,
            num_networks=len(step.networks),
        )
        for step in chain.steps
    ]
    whole = whole_bytes(image, chain.plan, members, each=each, objects=target.finds_objects)
    because = extras or _why_not(chain, target, image) or why_no_slabs(rules) or ""
    if because:
        return Needs(whole=whole, slabs=0, because=because)
    slabs, disk = slab_bytes(image, chain.plan, members, rules, ending)
    return Needs(whole=whole, slabs=slabs, disk=disk)


def _why_not(chain: Chain, target: Target, image: Image) -> str | None:
    """Say why an image cannot be predicted in slabs; None where it can."""
    if image.geometry.dimensions == 2:
        return "it is a 2D image"
    for item in (target, *(step.target for step in chain.steps)):
        if not item.pointwise:
            return f"the target {item.name} is decoded as a whole"
    if any(step.configuration.previous_resampling is not None for step in chain.steps):
        return "the cascade's previous segmentation is resampled as a whole"
    found = (why_no_rows(step.configuration) for step in chain.steps)
    return next((reason for reason in found if reason is not None), None)
