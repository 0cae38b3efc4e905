"""What a user may ask of a run, read from the command line or from keyword arguments into one record."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.data.dataset import DatasetSource
from autoseg.data.tasks import AUTO, TASKS
from autoseg.errors import OptionError
from autoseg.extensions import find
from planners.plan import GIGABYTE

STAGES = ("check", "plan", "preprocess", "train", "choose")
UNITS = {"": GIGABYTE, "GB": GIGABYTE, "G": GIGABYTE, "GIB": 2**30, "MB": 10**6, "M": 10**6}
DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
ALL_DATA = "all-data"
LOGGERS = ("tensorboard", "wandb", "mlflow")
SOURCES = {
    "plan": "the plan.json of a run",
    "like": "a run folder or a plan.json",
    "init": "a run folder of autoseg, or a model folder or checkpoint (.pth) of nnU-Net v2",
}
"""Options that name what exists already, and what that may be."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user asked for; None and empty mean "decide for me".

    Attributes:
        out: run folder.
        until: last stage to do, one of STAGES.
        plan: file of a plan to use as it is, instead of making one.
        like: run folder or plan whose decisions are carried to this dataset.
        init: trained model whose weights training starts from; its plan is carried, unless ``plan`` or ``like`` is
            given.
        freeze: beginnings of parameter names that training leaves as they are.
        budget_bytes: memory of one device.
        planner: name in ``planners.PLANNERS``.
        settings: ``path=value`` edits of the plan.
        configurations: names to train.
        folds: numbers, or ``all-data`` alone.
        epochs, steps_per_epoch, seed, patience: of training.
        time_budget_s: wall time of all requested trainings with their validation; it decides the number of epochs.
        logger: names of ``LOGGERS``.
        device, precision: ``auto`` or a name.
        wait: where another process works on the same, wait for it.
        deterministic: equal weights from equal starts on a GPU too.
    """

    out: Path | None = None
    until: str | None = None
    plan: Path | None = None
    like: Path | None = None
    init: Path | None = None
    freeze: tuple[str, ...] = ()
    budget_bytes: int | None = None
    planner: str = "default"
    settings: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ()
    folds: tuple[int | str, ...] = ()
    epochs: int | None = None
    steps_per_epoch: int | None = None
    seed: int | None = None
    patience: int | None = None
    time_budget_s: float | None = None
    logger: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "auto"
    wait: bool = False
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How the user wants predictions compared with labels.

    Attributes:
        task: ``semantic`` (maps of classes) or ``instance`` (maps of object ids).
        protocol: name in ``evaluation.protocols.PROTOCOLS``, of instances in
            ``evaluation.instance_metrics.INSTANCE_PROTOCOLS``; None: ``default``.
        metrics: measure these only; empty: what the protocol measures.
        against: other predictions of the same cases.
        margin: how much lower a mean score may be and still count as no worse; None: ``verbs.DEFAULT_MARGIN``.
        out: folder for the scores as files.
        as_json: print the record, not the table.
    """

    task: str = "semantic"
    protocol: str | None = None
    metrics: tuple[str, ...] = ()
    against: Path | None = None
    margin: float | None = None
    out: Path | None = None
    as_json: bool = False


def parse_bytes(text: str | float, what: str = "budget") -> int:
    """Read an amount of memory: ``8GB``, ``500MB``, ``8GiB``, ``8`` (gigabytes).

    Raises:
        OptionError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise OptionError(f"{what} {text!r} is no amount of memory; write it like 8GB or 500MB")
    return int(float(match[1]) * unit)


def parse_duration(text: str | float) -> float:
    """Read a time: ``6h``, ``90m``, ``600s``, ``1d12h``, ``1.5h``; a number alone is in seconds.

    Returns:
        Seconds.

    Raises:
        OptionError: it is none.
    """
    if isinstance(text, int | float) and text > 0:
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])", str(text).lower())
    whole = re.fullmatch(r"\s*(?:\d+(?:\.\d+)?\s*[dhms]\s*)+", str(text).lower())
    units = [unit for _, unit in parts]
    seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)
    if whole is None or units != sorted(set(units), key="dhms".index) or seconds <= 0:
        raise OptionError(f"time budget {text!r} is no time; write it like 6h, 90m, 600s or 1d12h")
    return seconds


def parse_folds(text: Any) -> tuple[int | str, ...]:
    """Read folds: ``0,1``, a number, a sequence of numbers, or ``all-data``.

    Raises:
        OptionError: something else.
    """
    if text in (ALL_DATA, (ALL_DATA,), [ALL_DATA]):
        return (ALL_DATA,)
    parts = text.split(",") if isinstance(text, str) else ([text] if isinstance(text, int) else list(text))
    folds = [str(part).strip() for part in parts]
    if not folds or not all(fold.isdigit() for fold in folds):
        raise OptionError(f"folds {text!r} are not numbers such as 0,1 nor {ALL_DATA}")
    return tuple(dict.fromkeys(int(fold) for fold in folds))


def options_from(dataset: Any, given: Mapping[str, Any]) -> tuple[DatasetSource, RunOptions]:
    """Sort what the user gave into where the data is and what to do with it.

    Args:
        dataset: dataset folder or table, or None.
        given: the other options by name, with ``budget``, ``configurations``, ``folds`` and ``set`` as the user wrote
            them.

    Raises:
        OptionError: a name is unknown or a value cannot be read.
    """
    source_names = {"images", "labels", "test", "group_by", "task"}
    source = {name: value for name, value in given.items() if name in source_names}
    options: dict[str, Any] = {name: value for name, value in given.items() if name not in source_names}
    if "budget" in options:
        options["budget_bytes"] = parse_bytes(options.pop("budget"))
    if "folds" in options:
        options["folds"] = parse_folds(options["folds"])
    if "time_budget" in options:
        options["time_budget_s"] = parse_duration(options.pop("time_budget"))
    for name in ("configurations", "freeze", "logger"):
        options[name] = names_in(options.get(name, ()))
    options["settings"] = tuple(options.pop("set", ()))
    known = {field.name for field in dataclasses.fields(RunOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(f"no option is named {unknown[0]!r} (known: {', '.join(sorted(known | source_names))})")
    for name in ("out", "plan", "like", "init"):
        options[name] = Path(options[name]) if options.get(name) is not None else None
    chosen = RunOptions(**options)
    _check_together(chosen)
    return _source(dataset, source), chosen


def names_in(given: Any) -> tuple[str, ...]:
    """Read names: ``a,b``, or a sequence of them."""
    return tuple(part.strip() for part in (given.split(",") if isinstance(given, str) else given) if part.strip())


def _check_together(options: RunOptions) -> None:
    """Refuse options that ask for two things at once, and files that are not there, before any work begins."""
    if options.plan is not None and options.like is not None:
        raise OptionError(
            f"two plans given: --plan {options.plan} (used as it is) and --like {options.like} (carried). Give one"
        )
    source = next((name for name in ("plan", "like", "init") if getattr(options, name) is not None), None)
    if source is not None and options.planner != "default":
        raise OptionError(
            f"--planner {options.planner} and --{source} both decide the plan. Leave one out"
            + ("; to start a planned network from other weights, write the plan first and give --plan with --init"
               if source == "init" else "")
        )  # fmt: skip
    if options.freeze and options.init is None:
        raise OptionError(
            f"--freeze {','.join(options.freeze)} without --init MODEL would keep random weights as they are"
        )
    for name in options.logger:
        find(dict.fromkeys(LOGGERS), "logger", name)
    for name in SOURCES:
        place = getattr(options, name)
        if place is not None and not place.exists():
            raise OptionError(f"--{name} {place} does not exist. Give {SOURCES[name]}")


def _source(dataset: Any, given: Mapping[str, Any]) -> DatasetSource:
    paths = {name: Path(given[name]) if given.get(name) is not None else None for name in ("images", "labels", "test")}
    if dataset is None and (paths["images"] is None or paths["labels"] is None):
        raise OptionError("no dataset given: name its folder (or table), or give --images DIR and --labels DIR")
    if dataset is not None and paths["images"] is not None:
        dataset_and = f"{dataset} and --images {paths['images']}"
        raise OptionError(f"two datasets given: {dataset_and}. Give the folder, or --images and --labels")
    task = given.get("task", AUTO)
    find(dict.fromkeys(TASKS), "task", task)
    return DatasetSource(
        dataset=None if dataset is None else Path(dataset),
        images=paths["images"],
        labels=paths["labels"],
        test=paths["test"],
        group_by=given.get("group_by"),
        task=task,
    )
