"""From fingerprint to the run's plan: make it, keep it, or take the user's, and say which and why."""

import dataclasses
from pathlib import Path

from autoseg.errors import OptionError, RunFolderError
from autoseg.extensions import find
from autoseg.jobs import visible_gpus
from autoseg.options import RunOptions
from autoseg.progress import say
from autoseg.run_folder import RunFolder, RunRecord, records_from
from planners import PLANNERS, records
from planners.edit import set_training, set_value
from planners.fingerprint import Fingerprint
from planners.plan import MemoryBudget, Plan, Reason

WRITTEN = "plan.json as written"
BY_HAND = Reason(about="plan.json", rule="user", because="edited by hand after it was written")


def memory_budget(options: RunOptions) -> MemoryBudget:
    """Give the budget asked for, or the memory of the smallest GPU here, or 8 GB where there is none."""
    gpus = visible_gpus() if options.device in ("auto", "cuda") or options.device.startswith("cuda:") else ()
    num_devices = max(len(gpus), 1)
    if options.budget_bytes is not None:
        return MemoryBudget(device_bytes=options.budget_bytes, num_devices=num_devices)
    if gpus:
        return MemoryBudget(device_bytes=min(gpu.memory_bytes for gpu in gpus), num_devices=num_devices)
    return MemoryBudget()


def make_plan(fingerprint: Fingerprint, options: RunOptions) -> Plan:
    """Make a plan for a fingerprint, or take the one the user named, and apply the user's changes.

    Raises:
        PlanError: no plan is possible, or a change makes it impossible.
        OptionError: no planner has that name, or the named plan is for other channels or labels.
    """
    if options.plan is not None:
        plan = _fitting(records_from(Plan, options.plan), fingerprint, options.plan)
    else:
        plan = find(PLANNERS, "planner", options.planner)(fingerprint, memory_budget(options))
    return apply_changes(plan, options)


def apply_changes(plan: Plan, options: RunOptions) -> Plan:
    """Apply the user's ``--set``, ``--epochs``, ``--steps-per-epoch`` and ``--seed``; each becomes a reason."""
    for setting in options.settings:
        place, separator, value = setting.partition("=")
        if not separator:
            raise OptionError(f"--set {setting!r} has no value; write it like --set 3d_fullres.batch_size=4")
        plan = set_value(plan, place.strip(), value.strip())
    given = {"epochs": options.epochs, "steps_per_epoch": options.steps_per_epoch, "seed": options.seed}
    changes = {name: value for name, value in given.items() if value is not None}
    return set_training(plan, **changes) if changes else plan


def decide(run: RunFolder, fingerprint: Fingerprint, options: RunOptions) -> Plan:
    """Give the run's plan and keep it in ``plan.json``: a new one, the one there is, or the one the user edited.

    A plan is made again when what it was made from has changed; a plan edited by hand is kept, whatever changed.
    """
    record = run.read(RunRecord, run.run_file)
    named = records.to_json(records_from(Plan, options.plan)) if options.plan is not None else None
    source = records.digest([fingerprint, memory_budget(options), options.planner, list(options.settings), named])
    existing = run.read(Plan, run.plan_file) if run.plan_file.exists() else None
    if existing is None:
        plan = make_plan(fingerprint, options)
    elif BY_HAND in existing.reasons or records.digest(existing) not in record.made_from.get(WRITTEN, ""):
        plan = _keep_edited(existing, fingerprint, options, same=record.made_from.get("plan.json") == source)
    elif record.made_from.get("plan.json") == source:
        plan = apply_changes(existing, dataclasses.replace(options, settings=()))
    else:
        say("  what the plan was made from has changed; planned anew")
        plan = make_plan(fingerprint, options)
    if plan != existing:
        # Both digests stand in the record while the file changes: a kill in between then looks like nobody's edit.
        ours = " ".join(records.digest(item) for item in (existing, plan) if item is not None)
        run.change_record(made_from={**record.made_from, WRITTEN: ours})
        run.write(plan, run.plan_file)
    run.change_record(made_from={**record.made_from, "plan.json": source, WRITTEN: records.digest(plan)})
    for reason in plan.reasons:
        run.log("decision", about=reason.about, rule=reason.rule, because=reason.because)
    return plan


def _keep_edited(plan: Plan, fingerprint: Fingerprint, options: RunOptions, *, same: bool) -> Plan:
    say("  plan.json was edited by hand; kept" + ("" if same else " (delete it to plan anew)"))
    if plan.labels != fingerprint.labels or len(plan.channels) != len(fingerprint.channels):
        raise RunFolderError(
            "plan.json was edited by hand, and the dataset's labels or channels have changed since. "
            "Delete plan.json to plan anew, or start in another folder (--out)"
        )
    if BY_HAND not in plan.reasons:
        plan = dataclasses.replace(plan, reasons=(*plan.reasons, BY_HAND))
    return apply_changes(plan, dataclasses.replace(options, settings=options.settings if not same else ()))


def _fitting(plan: Plan, fingerprint: Fingerprint, path: Path) -> Plan:
    """Take a plan for this dataset if its network can serve it as it is."""
    if len(plan.channels) != len(fingerprint.channels):
        raise OptionError(
            f"{path} is a plan for {len(plan.channels)} channels, the dataset has {len(fingerprint.channels)}. "
            "Plan anew, or use a dataset with the same channels"
        )
    if plan.labels.num_classes != fingerprint.labels.num_classes:
        raise OptionError(
            f"{path} is a plan for {plan.labels.num_classes} classes, "
            f"the dataset has {fingerprint.labels.num_classes}. Plan anew, or use a dataset with the same classes"
        )
    reason = Reason(about="plan.json", rule="given", because=f"taken from {path.name}, made for {plan.dataset}")
    return dataclasses.replace(
        plan, dataset=fingerprint.dataset, labels=fingerprint.labels, reasons=(*plan.reasons, reason)
    )
