"""What the program steps down by itself, and how trained folds stay valid with it.

A step down changes ``plan.json``: folds that are still to be trained take the smaller configuration. A trained fold
keeps the one it was trained with, which lies beside its weights (``configuration.json``). ``run.json`` remembers which
configurations came from one another by steps down, so that a fold of any of them is still a fold of the plan.
"""

import dataclasses

from autoseg.locks import hold
from autoseg.planning import write_by_program
from autoseg.progress import say
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord
from autoseg.training.fold_record import FoldRecord, identity
from planners import records
from planners.decision import times
from planners.plan import Configuration, Plan
from planners.step_down import RULE, step_down

LINEAGE = "steps down of {name}"
"""Key in ``RunRecord.made_from``: digests of configurations, in groups that came from one another."""


def give_way(run: RunFolder, tried: Configuration, because: str) -> Plan:
    """Step a configuration down after it did not fit; where another process has done so already, take that plan.

    Args:
        run: whose ``plan.json`` is written.
        tried: the configuration that did not fit.
        because: what happened.

    Raises:
        PlanError: nothing is left to give up.
    """
    with hold(run.root / ".step_down.lock", wait=True):  # others of this run must not step down at the same time
        plan = run.read(Plan, run.plan_file)
        if digest_of(plan.configuration(tried.name)) != digest_of(tried):
            return plan
        return keep_step_down(run, plan, step_down(plan, tried.name, because), tried.name)


def keep_step_down(run: RunFolder, before: Plan, after: Plan, name: str) -> Plan:
    """Write a plan in which one configuration was stepped down, and say and log what changed.

    Returns:
        ``after``.
    """
    old, new = before.configuration(name), after.configuration(name)
    key, made_from = LINEAGE.format(name=name), run.read(RunRecord, run.run_file).made_from
    groups = [group.split() for group in made_from.get(key, "").split(";") if group.strip()]
    group = next((found for found in groups if digest_of(old) in found), None)
    if group is None:
        groups.append(group := [digest_of(old)])
    group.append(digest_of(new))
    run.change_record(made_from={**made_from, key: "; ".join(" ".join(dict.fromkeys(group)) for group in groups)})
    write_by_program(run, after)
    (because,) = {
        reason.because for reason in after.reasons if reason.rule == RULE and _about(old, new) == reason.about
    }
    say(f"  {name}: {because}; {changes(old, new)} from here on")
    run.log("step-down", configuration=name, because=because, changes=changes(old, new))
    return after


def _about(old: Configuration, new: Configuration) -> str:
    return f"{new.name}.{'batch_size' if old.batch_size != new.batch_size else 'patch_size'}"


def changes(old: Configuration, new: Configuration) -> str:
    """Word what a step down changed: ``batch size 6 → 5``."""
    words = [f"batch size {old.batch_size} → {new.batch_size}"] if old.batch_size != new.batch_size else []
    if old.patch_size != new.patch_size:
        words.append(f"patch {times(old.patch_size)} → {times(new.patch_size)}")
    return ", ".join(words)


def are_related(run: RunFolder, name: str, first: str, second: str) -> bool:
    """Tell whether two configurations (their digests) differ by nothing but steps down of the program."""
    groups = run.read(RunRecord, run.run_file).made_from.get(LINEAGE.format(name=name), "").split(";")
    return first == second or any({first, second} <= set(group.split()) for group in groups)


def has_stepped_down(run: RunFolder, name: str) -> bool:
    """Tell whether the program has ever stepped a configuration down in this run."""
    return run.run_file.exists() and LINEAGE.format(name=name) in run.read(RunRecord, run.run_file).made_from


def digest_of(configuration: Configuration) -> str:
    """Give the digest that a fold is bound to."""
    return identity(records.to_json(configuration), None)[0]


def own_configuration(run: RunFolder, planned: Configuration, folder: FoldFolder) -> Configuration:
    """Give the configuration that a fold trains and predicts with.

    It is the plan's; or, where only steps down lie between, the one it was trained with: when it is finished, and when
    it was begun with another network, whose weights would be lost. How long it trains and how its target is decoded
    stands in the plan alone.
    """
    if not (folder.record.exists() and folder.configuration.exists()):
        return planned
    found = run.read(FoldRecord, folder.record)
    if not are_related(run, planned.name, found.configuration, digest_of(planned)):
        return planned
    own = dataclasses.replace(
        run.read(Configuration, folder.configuration), training=planned.training, target=planned.target
    )
    begun = folder.state.exists() and own.architecture != planned.architecture
    return own if found.finished or begun else planned


def adopt(run: RunFolder, folder: FoldFolder, found: FoldRecord, wanted: Configuration, what: str) -> FoldRecord:
    """Bring a fold that is not finished to a configuration that was stepped down since; it goes on with its weights.

    Where the network has changed with the patch, weights do not fit, and the fold starts anew.

    Args:
        run: of the fold.
        folder: of the fold.
        found: its record.
        wanted: the smaller configuration.
        what: the fold's name, for people.
    """
    own = run.read(Configuration, folder.configuration) if folder.configuration.exists() else None
    kept = own is not None and own.architecture == wanted.architecture
    changed = "smaller since" if own is None else changes(own, wanted)
    if not folder.state.exists():
        say(f"  {what}: {changed}; nothing was saved yet, so it begins again")
    elif kept:
        say(f"  {what}: {changed}; going on with the weights saved last")
    else:
        say(f"  {what}: {changed}; the network has changed with the patch, so its training starts anew")
        for path in (folder.state, folder.weights_last, folder.weights_best, folder.progress):
            path.unlink(missing_ok=True)
    record = dataclasses.replace(found, configuration=digest_of(wanted), validated=None, step_down=changed)
    run.write(wanted, folder.configuration)  # before the record: a kill in between leaves a fold to be adopted again
    run.write(record, folder.record)
    return record
