"""From fingerprint to the run's plan: make it, carry it, keep it, or take the user's, and say which and why."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import OptionError, RunFolderError
from autoseg.extensions import find
from autoseg.jobs import visible_gpus
from autoseg.options import RunOptions
from autoseg.preprocessing.normalization import NORMALIZATIONS
from autoseg.progress import say
from autoseg.run_folder import RunFolder, RunRecord, records_from
from planners import PLANNERS, joint, records
from planners.edit import predict_bytes_anew, set_training, set_value
from planners.fingerprint import Fingerprint
from planners.host_memory import promise_host_memory
from planners.identity import identity_json
from planners.plan import MemoryBudget, Plan, Reason
from planners.transfer import adapt_labels, carry, fine_tune, is_flat, own_axis_order, renew_warm_up

WRITTEN = "plan.json as written"
LATER_FACTS: dict[str, Any] = {"instances": None, "size_features": []}
"""Facts that fingerprints have got later, and what they are where there are none: not digested then, so that older runs
of classes keep their plan."""
BY_HAND = Reason(about="plan.json", rule="user", because="edited by hand after it was written")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model that a training may start from.

    Attributes:
        plan: its own, with the configurations that are trained.
        name: for people.
        identity: digest of all that a start from it depends on.
    """

    plan: Plan
    name: str
    identity: str


def memory_budget(options: RunOptions) -> MemoryBudget:
    """Give the budget asked for, or the memory of the smallest GPU here, or 8 GB where there is none."""
    gpus = visible_gpus() if options.device in ("auto", "cuda") or options.device.startswith("cuda:") else ()
    num_devices = max(len(gpus), 1)
    if options.budget_bytes is not None:
        return MemoryBudget(device_bytes=options.budget_bytes, num_devices=num_devices)
    if gpus:
        return MemoryBudget(device_bytes=min(gpu.memory_bytes for gpu in gpus), num_devices=num_devices)
    return MemoryBudget()


def make_plan(fingerprint: Fingerprint, options: RunOptions, model: Model | None = None) -> Plan:
    """Make a plan for a fingerprint, or take or carry the one the user named, and apply the user's changes.

    Args:
        fingerprint: the facts.
        options: what the user asked for.
        model: what training will start from; its plan is carried where the user names no other.

    Raises:
        PlanError: no plan is possible, or a change makes it impossible.
        OptionError: no planner has that name, the named plan is for other channels, or a model is asked for that the
            caller has not opened.
    """
    if options.init is not None and model is None:
        raise OptionError(f"--init {options.init}: weights to start from are for `autoseg run`; leave it out here")
    if options.plan is not None:
        plan = _fitting(records_from(Plan, options.plan), fingerprint, options.plan)
    elif options.like is not None:
        plan = carry(read_plan_of(options.like), fingerprint, memory_budget(options))
    elif model is not None:
        plan = carry(model.plan, fingerprint, memory_budget(options), is_trained=True)
    else:
        plan = find(PLANNERS, "planner", options.planner)(fingerprint, memory_budget(options))
    if model is not None:
        plan = fine_tune(plan, model.name, options.epochs)
    plan = renew_warm_up(apply_changes(plan, options))
    _check_names(plan)
    return promise_host_memory(plan, fingerprint)


def plan_together(fingerprints: Sequence[Fingerprint], options: RunOptions) -> Plan:
    """Make one plan for several datasets, and keep it with their joined fingerprint where ``options.out`` is given.

    Raises:
        PlanError: the datasets do not fit together, or no plan is possible.
    """
    joined = joint.join(fingerprints)
    plan = make_plan(joined, options)
    plan = dataclasses.replace(plan, reasons=(*joint.explain_join(fingerprints), *plan.reasons))
    if options.out is not None:
        folder = RunFolder(options.out)
        if folder.run_file.exists():
            raise RunFolderError(f"{options.out} is the folder of a run. Give another --out for the common plan")
        folder.write(joined, folder.fingerprint_file)
        folder.write(plan, folder.plan_file)
        say(f"  {folder.plan_file}: use it for each dataset with autoseg run DATASET --plan {folder.plan_file}")
    return plan


def read_plan_of(place: Path) -> Plan:
    """Read the plan of a run folder, or of a file.

    Raises:
        RunFolderError: there is none, or it does not fit; the message names the place.
    """
    if place.is_dir() and not RunFolder(place).plan_file.exists():
        raise RunFolderError(f"{place} holds no plan.json. Give a folder that `autoseg run` or `autoseg plan` wrote")
    return records_from(Plan, RunFolder(place).plan_file if place.is_dir() else place)


def apply_changes(plan: Plan, options: RunOptions) -> Plan:
    """Apply the user's ``--set``, ``--freeze``, ``--epochs`` and the like; each becomes a reason. The user wins."""
    for setting in options.settings:
        place, separator, value = setting.partition("=")
        if not separator:
            raise OptionError(f"--set {setting!r} has no value; write it like --set 3d_fullres.batch_size=4")
        plan = set_value(plan, place.strip(), value.strip())
    if options.freeze:
        plan = set_value(plan, "*.training.frozen", records.dumps(list(options.freeze)))
    given = {name: getattr(options, name) for name in ("epochs", "steps_per_epoch", "seed", "patience")}
    changes = {name: value for name, value in given.items() if value is not None}
    return set_training(plan, **changes) if changes else plan


def decide(run: RunFolder, fingerprint: Fingerprint, options: RunOptions, model: Model | None = None) -> Plan:
    """Give the run's plan and keep it in ``plan.json``: a new one, the one there is, or the one the user edited.

    A plan is made again when what it was made from has changed; a plan edited by hand is kept, whatever changed. What
    the program changed in it (``write_by_program``) stays with it.
    """
    record = run.read(RunRecord, run.run_file)
    source = _source(fingerprint, options, model)
    existing = run.read(Plan, run.plan_file) if run.plan_file.exists() else None
    if existing is None:
        plan = make_plan(fingerprint, options, model)
    elif BY_HAND in existing.reasons or not _is_ours(run, existing, record):
        plan = _keep_edited(existing, fingerprint, options, same=record.made_from.get("plan.json") == source)
    elif record.made_from.get("plan.json") == source:
        plan = apply_changes(existing, dataclasses.replace(options, settings=()))
    else:
        say("  what the plan was made from has changed; planned anew")
        plan = make_plan(fingerprint, options, model)
    plan = promise_host_memory(plan, fingerprint)
    _write(run, plan, existing)
    run.change_record(made_from={**run.read(RunRecord, run.run_file).made_from, "plan.json": source})
    for reason in plan.reasons:
        run.log("decision", about=reason.about, rule=reason.rule, because=reason.because)
    return plan


def _is_ours(run: RunFolder, existing: Plan, record: RunRecord) -> bool:
    """Tell whether ``plan.json`` is as the program wrote it: this version, or one whose plans had fewer fields."""
    written = record.made_from.get(WRITTEN, "")
    as_it_stands = json.loads(run.plan_file.read_text(encoding="utf-8"))
    return records.digest(existing) in written or records.digest(as_it_stands) in written


def write_by_program(run: RunFolder, plan: Plan, *reasons: Reason) -> Plan:
    """Keep a plan that the program changed by itself (a step-down, a time budget, weights to start from).

    It counts as no edit by hand: the next start goes on with it, until what it was made from changes.

    Args:
        run: whose ``plan.json`` is written.
        plan: as changed.
        reasons: of the change; each takes the place of an earlier one about the same value and of the same rule.

    Returns:
        The plan with the reasons, as it is kept.
    """
    new = {(reason.about, reason.rule) for reason in reasons}
    kept = tuple(reason for reason in plan.reasons if (reason.about, reason.rule) not in new)
    plan = dataclasses.replace(plan, reasons=(*kept, *reasons))
    _write(run, plan, run.read(Plan, run.plan_file) if run.plan_file.exists() else None)
    for reason in reasons:
        run.log("decision", about=reason.about, rule=reason.rule, because=reason.because)
    return plan


def training_order(
    plan: Plan, names: Sequence[str], folds: Sequence[int | str], num_folds: int
) -> tuple[tuple[str, int | str], ...]:
    """Put what is asked for into an order in which it can be trained: a cascade's first stages before it.

    A stage that feeds another is trained in all its folds, whatever folds are asked for: each case's segmentation must
    come from a network that has not seen it.

    Args:
        plan: whose configurations are named.
        names: configurations to train.
        folds: asked for.
        num_folds: that there are.

    Returns:
        Pairs of configuration and fold.

    Raises:
        PlanError: there is no such configuration.
    """
    sequence: list[str] = []
    feeding: set[str] = set()
    for name in names:
        chain = [plan.configuration(name)]
        while chain[0].previous is not None:
            feeding.add(chain[0].previous)
            chain.insert(0, plan.configuration(chain[0].previous))
        sequence += [item.name for item in chain if item.name not in sequence]
    pairs: list[tuple[str, int | str]] = []
    for name in sequence:
        every = range(num_folds) if name in feeding else ()
        pairs += [(name, fold) for fold in dict.fromkeys((*every, *(folds if name in names else ())))]
    return tuple(pairs)


def training_waves(plan: Plan, pairs: Sequence[tuple[str, int | str]]) -> tuple[tuple[tuple[str, int | str], ...], ...]:
    """Cut what is to be trained into waves: what is in one may be trained side by side, after the waves before it.

    Args:
        plan: whose configurations are named.
        pairs: of configuration and fold.

    Returns:
        The same pairs, in their order within each wave; no wave is empty.
    """
    waves: dict[int, list[tuple[str, int | str]]] = {}
    for name, fold in pairs:
        stages, previous = 0, plan.configuration(name).previous
        while previous is not None:
            stages, previous = stages + 1, plan.configuration(previous).previous
        waves.setdefault(stages, []).append((name, fold))
    return tuple(tuple(waves[stages]) for stages in sorted(waves))


def _check_names(plan: Plan) -> None:
    """Refuse a normalization that nobody offers now, rather than when preprocessing begins."""
    for item in plan.configurations:
        for name in item.normalization:
            try:
                find(NORMALIZATIONS, "normalization", name)
            except OptionError as fault:
                raise OptionError(f"{item.name}.normalization: {fault}") from fault


def _source(fingerprint: Fingerprint, options: RunOptions, model: Model | None) -> str:
    """Identify what a plan is made from. What is not asked for is not in it, so that older runs keep their plan."""
    named = identity_json(records_from(Plan, options.plan)) if options.plan is not None else None
    facts = records.to_json(fingerprint)
    del facts["image_percentiles"]  # no planner looks at them
    for name, nothing in LATER_FACTS.items():
        if facts[name] == nothing:
            del facts[name]
    parts = [facts, memory_budget(options), options.planner, list(options.settings), named]
    if options.like is not None:
        parts.append({"like": identity_json(read_plan_of(options.like))})
    if model is not None:
        parts.append({"init": model.identity, "freeze": list(options.freeze)})
    return records.digest(parts)


def _write(run: RunFolder, plan: Plan, existing: Plan | None) -> None:
    """Write ``plan.json`` where it does not hold this already, and note that it was the program that did."""
    made_from = run.read(RunRecord, run.run_file).made_from
    if plan != existing or run.plan_file.read_text(encoding="utf-8") != records.dumps(plan):
        # Both digests stand in the record while the file changes: a kill in between then looks like nobody's edit.
        ours = " ".join(records.digest(item) for item in (existing, plan) if item is not None)
        run.change_record(made_from={**made_from, WRITTEN: ours})
        run.write(plan, run.plan_file)
    run.change_record(made_from={**made_from, WRITTEN: records.digest(plan)})


def _keep_edited(plan: Plan, fingerprint: Fingerprint, options: RunOptions, *, same: bool) -> Plan:
    say("  plan.json was edited by hand; kept" + ("" if same else " (delete it to plan anew)"))
    if plan.labels != fingerprint.labels or len(plan.channels) != len(fingerprint.channels):
        raise RunFolderError(
            "plan.json was edited by hand, and the dataset's labels or channels have changed since. "
            "Delete plan.json to plan anew, or start in another folder (--out)"
        )
    if BY_HAND not in plan.reasons:
        plan = dataclasses.replace(plan, reasons=(*plan.reasons, BY_HAND))
    _check_names(plan)
    plan = predict_bytes_anew(plan, [item.name for item in plan.configurations])
    return apply_changes(plan, dataclasses.replace(options, settings=options.settings if not same else ()))


def _fitting(plan: Plan, fingerprint: Fingerprint, path: Path) -> Plan:
    """Take a plan for this dataset: grid, network and intensities as they are, heads for the dataset's labels."""
    if len(plan.channels) != len(fingerprint.channels):
        raise OptionError(
            f"{path} is a plan for {len(plan.channels)} channels, the dataset has {len(fingerprint.channels)}. "
            "Plan anew, carry it over (--like instead of --plan), or use a dataset with the same channels"
        )
    if is_flat(fingerprint) and plan.axis_order != own_axis_order(fingerprint):
        raise OptionError(
            f"{path} has the axis order {', '.join(map(str, plan.axis_order))}, which would cut the single slices "
            f"of {fingerprint.dataset} into lines. Carry it over (--like instead of --plan), or plan anew"
        )
    given = Reason(about="plan.json", rule="given", because=f"taken from {path.name}, made for {plan.dataset}")
    fitted = adapt_labels(plan, fingerprint)
    return dataclasses.replace(fitted, dataset=fingerprint.dataset, reasons=(*fitted.reasons, given))
