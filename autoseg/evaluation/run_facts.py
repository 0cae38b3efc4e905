"""What a set of predictions depends on, as short texts by name: read from the records of the run that made it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoseg.data.check_problem import count
from autoseg.data.splits import Splits
from autoseg.errors import AutosegError
from autoseg.evaluation.instance_selection import settings_text
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.selection import Choice
from autoseg.run_folder import RunFolder, RunRecord, records_from
from planners import records
from planners.plan import GIGABYTE, Configuration, Plan, Training

ALL_DATA = "all-data"
NOT_ASKED = {"name", "median_shape", "estimated_bytes"}
"""Fields of a configuration that decide nothing about a prediction."""

TITLES = {
    "training.mirror_axes": "mirrored axes",
    "training.initial_weights": "weights it started from",
    "training.augmentation.enabled": "augmentation",
}
"""Names for people of fields whose own would mislead; the others are called by their last words."""

NONE = "none"
Fold = int | str


@dataclass(frozen=True, kw_only=True)
class Makers:
    """Which networks of a run made a set of predictions, and what was done with it afterwards.

    Attributes:
        configurations: whose probabilities were averaged.
        folds: whose networks were averaged in each.
        postprocessing: rules that were applied.
        weights: shares of the configurations; empty: equal ones.
        out_of_fold: each case was predicted by networks that have not seen it.
        decode: settings with which objects were found, where they are not those of the plan; out of fold
            ``decode_by_part`` instead, per part of the cases.
    """

    configurations: tuple[str, ...]
    folds: tuple[Fold, ...]
    postprocessing: tuple[Postprocessing, ...] = ()
    weights: tuple[float, ...] = ()
    out_of_fold: bool = False
    decode: Mapping[str, Any] = field(default_factory=dict)
    decode_by_part: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run.

    Attributes:
        facts: by name, for people; equal texts mean equal things.
        trained, validated: cases of the folds that made the predictions; empty where that is not known.
        out_of_fold: each case was predicted by networks that have not seen it.
        notes: records that could not be read.
    """

    facts: dict[str, str]
    trained: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    out_of_fold: bool = False
    notes: tuple[str, ...] = ()


def makers_of_new_cases(run: RunFolder) -> Makers:
    """Tell which networks segment new images: as in ``choice.json``, else the first configuration that is trained.

    Raises:
        AutosegError: the choice, or the plan where there is none, cannot be read.
    """
    if run.choice_file.exists():
        choice = run.read(Choice, run.choice_file)
        return Makers(
            configurations=choice.configurations,
            folds=choice.folds,
            postprocessing=choice.postprocessing,
            weights=choice.weights,
            decode=choice.decode,
            decode_by_part=choice.decode_by_part,
        )
    for configuration in run.read(Plan, run.plan_file).configurations:
        trained = sorted(
            path.parent.name.removeprefix("fold_")
            for path in run.fold(configuration.name, 0).root.parent.glob("fold_*/weights_last.safetensors")
        )
        if trained:
            folds = tuple(int(fold) if fold.isdigit() else fold for fold in trained)
            return Makers(configurations=(configuration.name,), folds=folds)
    return Makers(configurations=(), folds=())


def facts_of_run(run: RunFolder, makers: Makers | None = None) -> RunFacts:
    """Read what the predictions of a run depend on. What cannot be read is noted, never an error.

    Args:
        run: its folder.
        makers: which of its networks made them; None: those that segment new images.
    """
    facts: dict[str, str] = {}
    notes: list[str] = []
    trained: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    try:
        plan = run.read(Plan, run.plan_file)
        facts |= _of_plan(plan)
        makers = makers or makers_of_new_cases(run)
        facts |= _of_makers(makers)
        facts |= _of_configurations(run, plan, makers)
    except (AutosegError, ValueError) as fault:
        notes.append(str(fault))
    try:
        facts |= _of_record(run.read(RunRecord, run.run_file))
        if makers is not None:
            trained, validated = _cases(run, makers)
            facts["trained on"], facts["validated on"] = _some_cases(trained), _some_cases(validated)
    except AutosegError as fault:
        notes.append(str(fault))
    return RunFacts(
        facts=facts,
        trained=trained,
        validated=validated,
        out_of_fold=makers is not None and makers.out_of_fold,
        notes=tuple(notes),
    )


def training_facts() -> frozenset[str]:
    """Name the facts that say how networks were trained: of networks of other programs they are not known."""
    return frozenset(_title(f"training.{path}") for path in _flat(records.to_json(Training()))) | {"epochs done"}


def _of_plan(plan: Plan) -> dict[str, str]:
    regions = ", ".join(f"{item.name} = {'+'.join(map(str, item.values))}" for item in plan.labels.regions)
    return {
        "dataset": plan.dataset,
        "channels": ", ".join(item.name for item in plan.channels),
        "labels": ", ".join(f"{item.name} = {item.value}" for item in plan.labels.classes)
        + (f"; regions {regions}" if regions else "")
        + (f"; ignore = {plan.labels.ignore}" if plan.labels.ignore is not None else ""),
        "planner": plan.planner,
        "budget": f"{plan.budget.device_bytes / GIGABYTE:g} GB",
    }


def _of_makers(makers: Makers) -> dict[str, str]:
    shares = f" ({' : '.join(f'{weight:g}' for weight in makers.weights)})" if len(set(makers.weights)) > 1 else ""
    found_with = _decode_text(makers)
    return {
        "configurations": " + ".join(makers.configurations) + shares or NONE,
        "folds": "the one that has not seen the case" if makers.out_of_fold else _listed(makers.folds),
        "postprocessing": "; ".join(_rule(item) for item in makers.postprocessing) or NONE,
        **({"objects found with": found_with} if found_with else {}),
    }


def _decode_text(makers: Makers) -> str:
    """Write the settings with which objects were found; empty where they are the plan's, or none are told apart."""
    if not makers.out_of_fold:
        return settings_text(makers.decode)
    return "; ".join(
        f"{part if part.startswith('half') else f'fold {part}'}: {settings_text(decode) or 'as planned'}"
        for part, decode in makers.decode_by_part.items()
    )


def _rule(item: Postprocessing) -> str:
    size = f" ({item.size_mm3:g} mm³)" if item.size_mm3 is not None else ""
    return f"{item.rule} of {item.name}{size}"


def _of_record(record: RunRecord) -> dict[str, str]:
    facts = {"autoseg": record.versions.get("autoseg", "unknown")}
    if record.compute is not None:
        facts["precision"] = str(record.compute.get("precision", "unknown"))
    return facts


def _of_configurations(run: RunFolder, plan: Plan, makers: Makers) -> dict[str, str]:
    """Every field of the configurations, as their folds were trained; of several, each with its name before it."""
    facts: dict[str, str] = {}
    for name in makers.configurations:
        found: dict[str, list[str]] = {}
        for fold in makers.folds:
            own = run.fold(name, fold)
            trained = records_from(Configuration, own.configuration) if own.configuration.exists() else None
            values = _flat(records.to_json(trained or plan.configuration(name)))
            for path, text in (*values.items(), ("epochs done", _epochs_done(own.progress))):
                found.setdefault(path, []).append(text)
        before = f"{name}: " if len(makers.configurations) > 1 else ""
        facts |= {before + _title(path): " / ".join(dict.fromkeys(texts)) for path, texts in found.items()}
    return facts


def _epochs_done(progress: Any) -> str:
    try:
        lines = progress.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return str(sum(bool(line.strip()) for line in lines))


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Give nested fields by dotted path, each as a text."""
    texts: dict[str, str] = {}
    for key, item in value.items():
        path = f"{before}{key}"
        if path in NOT_ASKED:
            continue
        if isinstance(item, Mapping) and item:
            texts |= _flat(item, f"{path}.")
        elif path == "architecture.stages":
            features = f"{item[0]['features']} to {item[-1]['features']} features"
            texts[path] = f"{len(item)}, {features} ({records.digest(item)[:6]})"
        elif isinstance(item, list) and any(isinstance(part, Mapping) for part in item):
            texts[path] = f"{len(item)} ({records.digest(item)[:6]})"
        else:
            texts[path] = _plain(item)
    return texts


def _plain(item: Any) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, list):
        return ", ".join(_plain(part) if not isinstance(part, list) else json.dumps(part) for part in item) or NONE
    if item is None or item in ("", {}):
        return NONE
    return f"{item:.6g}" if isinstance(item, float) else str(item)


def _title(path: str) -> str:
    return TITLES.get(path) or path.removeprefix("training.").replace(".", " ").replace("_", " ")


def _cases(run: RunFolder, makers: Makers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases that any of the networks was trained on, and cases that the folds were validated on."""
    if ALL_DATA in makers.folds:
        every = tuple(sorted(case.id for case in run.read(RunRecord, run.run_file).cases))
        return every, ()
    folds = run.read(Splits, run.splits_file).folds
    used = [folds[fold] for fold in makers.folds if isinstance(fold, int) and fold < len(folds)]
    return _union(fold.train for fold in used), _union(fold.validation for fold in used)


def _union(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted({case for part in parts for case in part}))


def _some_cases(cases: Sequence[str]) -> str:
    """Write how many cases, with a mark that differs where the cases do."""
    return f"{count(len(cases), 'case')} ({records.digest(list(cases))[:6]})" if cases else NONE


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items)) or NONE
