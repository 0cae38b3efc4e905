"""From one planned configuration to those that compete for finding objects: alike but for the target.

``plan_instances`` decides before there is a patch (the targets, whether images are rescaled), ``vary`` afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from planners.decision import Decision, assemble, cases, percent
from planners.diameter import scale_of
from planners.fingerprint import Fingerprint, InstanceStats
from planners.instances import (
    COMMON_OPTIONS,
    IN_WORDS,
    KNOWN_OPTIONS,
    Chosen,
    ObjectSizes,
    as_options,
    choose_targets,
    count_outputs,
    object_sizes,
    target_options,
)
from planners.labels import Labels
from planners.memory import configuration_bytes, explain_bytes
from planners.plan import Configuration, MemoryBudget, Reason, SizeScaling, Target
from planners.possible import check_options
from planners.records import PlanError

Explained = tuple[Configuration, tuple[Reason, ...]]
"""A configuration and the reasons of its values."""

SLOW_IN_VOLUMES = {"flow": "encoding it takes seconds per patch of a volume"}
"""Measured for 96³ voxels of touching balls of 10 to 40 voxels, on a CPU: 0.7 to 4 s of flow against 0.03 to 0.08 s of
boundary (2026-11)."""


USUAL_DIAMETER = 30.0
"""Voxels, where a target names none (``targets.instance_target.DIAMETER``)."""


@dataclass(frozen=True, kw_only=True)
class InstanceCandidate:
    """One way to find the objects: a target, and the reasons of its values (``about`` begins with ``target.``)."""

    target: Target
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True)
class InstanceTask:
    """What is decided of the objects before patch and batch.

    Attributes:
        scaling: to a common diameter, if at all.
        candidates: the targets to be trained, the preferred one first.
        reasons: of the plan as a whole.
    """

    scaling: Decision[SizeScaling | None]
    candidates: tuple[InstanceCandidate, ...]
    reasons: tuple[Reason, ...]

    @property
    def most_outputs(self) -> int:
        """The outputs of the candidate that has the most."""
        return max(candidate.target.num_outputs for candidate in self.candidates)


def plan_instances(
    fingerprint: Fingerprint, spacing_mm: Sequence[float], scaling: Decision[SizeScaling | None]
) -> InstanceTask:
    """Choose the targets for a dataset with instances.

    Args:
        fingerprint: with ``instances``.
        spacing_mm: of the configurations, two or three entries, in the plan's axis order.
        scaling: whether images are brought to a common diameter (``planners.diameter.fit_scaling``).

    Raises:
        PlanError: nothing is known of the objects.
    """
    stats = stats_of(fingerprint)
    sizes = object_sizes(stats, spacing_mm, scaling.value)
    chosen = choose_targets(stats, sizes)
    candidates = tuple(_candidate(name, chosen, sizes, fingerprint.labels) for name in chosen.names)
    return InstanceTask(
        scaling=scaling,
        candidates=candidates,
        reasons=(
            Reason(
                about="labels.instance_classes",
                rule="objects-measured",
                because=word_statistics(fingerprint, min(spacing_mm)),
            ),
            *_about_configurations(chosen, len(spacing_mm)),
        ),
    )


def stats_of(fingerprint: Fingerprint) -> InstanceStats:
    """Give what was measured of the objects.

    Raises:
        PlanError: nothing was.
    """
    if fingerprint.instances is None:
        raise PlanError(
            f"no objects of {', '.join(fingerprint.labels.instance_classes)} are known in {fingerprint.dataset}; "
            "targets that find objects need some. Annotate them, or take `instances` out of dataset.json"
        )
    return fingerprint.instances


def vary(base: Explained, task: InstanceTask, budget: MemoryBudget) -> tuple[Explained, ...]:
    """Make one configuration per candidate from a planned one: equal but for the target and what follows from it."""
    item, reasons = base
    made = []
    for candidate in task.candidates:
        name = f"{item.name}_{candidate.target.name}"
        new = replace(item, name=name, target=candidate.target, scaling=task.scaling.value)
        step = explain_bytes(configuration_bytes(new), budget)
        decisions: dict[str, Decision[Any]] = {"estimated_bytes": step, "scaling": task.scaling}
        own = [Reason(about=f"{name}.{field}", rule=d.rule, because=d.because) for field, d in decisions.items()]
        kept = [
            replace(why, about=name + why.about.removeprefix(item.name))
            for why in reasons
            if not why.about.startswith((f"{item.name}.target", f"{item.name}.estimated_bytes"))
        ]
        target = [replace(why, about=f"{name}.{why.about}") for why in candidate.reasons]
        made.append((replace(new, estimated_bytes=step.value), (*kept, *target, *own)))
    return tuple(made)


def enlarge(fingerprint: Fingerprint, scaling: SizeScaling | None) -> Fingerprint:
    """Give the facts as they are after images were brought to a common diameter: as if their voxels were larger.

    Axes of a single voxel stay. The factor is what preprocessing will find, since it asks the same of each image.
    """
    if scaling is None or not fingerprint.size_features:
        return fingerprint
    spacings = []
    for spacing, shape, features in zip(
        fingerprint.spacings_mm, fingerprint.shapes, fingerprint.size_features, strict=True
    ):
        scale = scale_of(features, scaling, fingerprint.dataset) if features else 1.0
        z, y, x = (value * (scale if size > 1 else 1.0) for value, size in zip(spacing, shape, strict=True))
        spacings.append((z, y, x))
    return replace(fingerprint, spacings_mm=tuple(spacings))


def renew_options(target: Target, sizes: ObjectSizes, kept: Sequence[str] = ()) -> Target:
    """Decide a target's options anew for other objects; what the rules do not decide stays.

    Args:
        target: whose options are decided; stays as it is.
        sizes: of the objects.
        kept: options that stay as they are, settings of the decoder as ``decode.NAME``.
    """
    decided = target_options(target.name, sizes, dense=bool(target.options.get("dense", False)))
    new = as_options({name: decision for name, decision in decided.items() if name not in kept})
    decode = {**target.options.get("decode", {}), **new.pop("decode", {})}
    return replace(target, options={**target.options, **new, **({"decode": decode} if decode else {})})


def follow_target(
    old: Configuration, new: Configuration, field: str, labels: Labels
) -> tuple[Configuration, list[Reason]]:
    """Bring along what follows in a target that finds objects from a value that a user has set.

    Another target takes the options that its kind has, decided from the diameter alone; the number of maps follows
    from name and options; spacing and diameter follow the configuration's spacing.

    Args:
        old, new: before and after the change.
        field: that was set, such as ``target.name``.
        labels: the plan's.

    Returns:
        The configuration, and a reason per value that followed.

    Raises:
        PlanError: the target has no such option, or another number of axes than the configuration.
    """
    target, options, followed = new.target, new.target.options, []
    if field == "spacing_mm" and "spacing" in options:
        factor = min(old.spacing_mm) / min(new.spacing_mm)
        changed = {"spacing": list(new.spacing_mm), "diameter": options.get("diameter", 0) * factor}
        target = replace(target, options={**options, **{key: value for key, value in changed.items() if value}})
        followed = [f"options.{key}" for key, value in changed.items() if value]
    if field == "target.name" and target.name != old.target.name:
        diameter = options.get("diameter", USUAL_DIAMETER)
        sizes = ObjectSizes(
            small=diameter / 2, median=diameter, large=2 * diameter, spacing_mm=new.spacing_mm
        )  # as far as most sizes spread; assumption
        target = replace(target, options=as_options(target_options(target.name, sizes)))
        followed = ["options"]
    count = count_outputs(target, labels)
    if field.startswith("target.") and field != "target.num_outputs" and count not in (None, target.num_outputs):
        target = replace(target, num_outputs=count)
        followed.append("num_outputs")
    because = f"follows from {field}, which is set by the user"
    _check_options(replace(new, target=target))
    return replace(new, target=target), [
        Reason(about=f"{new.name}.target.{key}", rule="target-follows", because=because) for key in followed
    ]


def _check_options(item: Configuration) -> None:
    options, name = item.target.options, item.target.name
    known = (*COMMON_OPTIONS, *KNOWN_OPTIONS.get(name, options))
    if strange := [option for option in options if option not in known]:
        raise PlanError(
            f"{item.name}.target.options has {strange[0]}, which target {name} does not know; it knows "
            f"{', '.join(known)}"
        )
    if options.get("dimensions", item.dimensions) != item.dimensions:
        raise PlanError(
            f"{item.name}.target.options.dimensions is {options['dimensions']}; the configuration has {item.dimensions}"
        )
    if name in KNOWN_OPTIONS:
        check_options(options, item.dimensions, f"{item.name}.target.options.{{}}")


def _candidate(name: str, chosen: Chosen, sizes: ObjectSizes, labels: Labels) -> InstanceCandidate:
    dense = chosen.dense and name == chosen.names[0]
    decided = target_options(name, sizes, dense=dense)
    options = as_options(decided)
    count = count_outputs(Target(name=name, num_outputs=0, options=options), labels)
    assert count is not None
    because = f"{count} maps for {labels.num_classes} classes with background"
    slow = f" ({SLOW_IN_VOLUMES[name]})" if sizes.dimensions == 3 and name in SLOW_IN_VOLUMES else ""
    decisions: dict[str, Decision[Any]] = {
        "name": Decision(value=name, rule=chosen.rule, because=f"{IN_WORDS[name]}{slow}; {chosen.because}"),
        "num_outputs": Decision(value=count, rule="output-per-map", because=because),
    }
    target, reasons = assemble(Target, "target", decisions, {"options": (options, ())})
    own = [Reason(about=f"target.options.{option}", rule=d.rule, because=d.because) for option, d in decided.items()]
    return InstanceCandidate(target=target, reasons=(*reasons, *own))


def _about_configurations(chosen: Chosen, dimensions: int) -> tuple[Reason, ...]:
    about, found = "configurations", list[Reason]()
    if dimensions == 3:
        whole = "3D alone: objects found slice by slice would have to be joined across slices"
        coarse = "no low resolution, no cascade: small objects would vanish on a coarser grid"
        found.append(Reason(about=about, rule="whole-objects", because=whole))
        found.append(Reason(about=about, rule="one-resolution", because=coarse))
    if len(chosen.names) > 1:
        both = f"{' and '.join(chosen.names)} compete, alike but for the target: the better F1 out of fold predicts"
        return (*found, Reason(about=about, rule="best-out-of-fold", because=both))
    return (*found, Reason(about=about, rule="one-target", because=f"{chosen.names[0]} alone"))


def word_statistics(fingerprint: Fingerprint, finest_mm: float) -> str:
    """Word what was measured of the objects; diameters in voxels of a spacing, and in mm where that is not the same."""
    stats = stats_of(fingerprint)
    counts = [case.count for case in stats.cases]
    empty = f", none in {cases(counts.count(0))}" if 0 in counts else ""
    small, median, large = (f"{value / finest_mm:.3g}" for value in stats.diameters_mm)
    in_mm = f" (median {stats.diameters_mm[1]:.3g} mm)" if abs(finest_mm - 1) > 1e-6 else ""
    per_case = f"{min(counts)} to {max(counts)} each" if min(counts) < max(counts) else f"{counts[0]} each"
    return (
        f"{sum(counts):,} ({', '.join(fingerprint.labels.instance_classes)}) in {cases(len(counts))}, "
        f"{per_case}{empty}; median diameter {median} voxels, 5 to 95 %: {small} to {large}{in_mm}; "
        f"solidity {stats.solidity:.2f}, elongation {stats.elongation:.1f}; {percent(stats.touching_fraction)} touch "
        f"another; {percent(stats.background_fraction)} of the voxels are background"
    )
