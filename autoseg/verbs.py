"""The verbs of the command line that are one call each: check, plan, train, predict, evaluate, report and so on.

torch is imported by those that need it, when they need it.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg import log, planning
from autoseg.data.check import CheckResult
from autoseg.data.check_problem import count
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.errors import AutosegError, DatasetError, OptionError, RunFolderError
from autoseg.extensions import find
from autoseg.options import EvaluateOptions, RunOptions, options_from
from autoseg.pipeline import run
from autoseg.progress import say
from autoseg.provenance import circumstances, logged
from autoseg.run_folder import RunFolder, records_from, write_atomic
from planners import records
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.records import PlanError, RecordError

__all__ = ["check", "demo", "evaluate", "export", "plan", "predict", "report", "run", "train"]

DEFAULT_MARGIN = 0.01
"""How much lower a mean score may be and still count as no worse. Assumption: a hundredth of Dice, about what two
trainings of one plan differ by."""
LOG = "log.jsonl"
"""Beside predictions, where autoseg itself failed; nothing else is logged there: the folder is the user's."""
DEMO_OPTIONS = {"epochs": 6, "steps_per_epoch": 20, "configurations": "3d_fullres", "folds": "0,1,2"}


def check(source: DatasetSource) -> CheckResult:
    """Find every problem of a dataset, and raise none of them."""
    from autoseg.data.check import check_dataset

    return check_dataset(open_dataset(source))


def check_and_print(source: DatasetSource) -> None:
    """Print every problem of a dataset.

    Raises:
        DatasetError: at least one stops a run.
    """
    result = check(source)
    print(result.text())
    if result.stops:
        stopping = sum(p.stops for p in result.problems)
        raise DatasetError(f"{count(stopping, 'problem')} stop{'s' * (stopping == 1)} the run; see the list")


def plan(source: DatasetSource, options: RunOptions) -> Plan:
    """Check and measure a dataset and decide; kept in a run folder where ``options.out`` names one.

    Raises:
        DatasetError: the dataset cannot be used; PlanError: no plan is possible.
    """
    if options.out is not None:
        return run(source, dataclasses.replace(options, until="plan")).read(Plan, RunFolder(options.out).plan_file)
    return planning.make_plan(_measure(source), options)


def plan_together(sources: Sequence[DatasetSource], options: RunOptions) -> Plan:
    """Check and measure several datasets and decide one plan for all; kept where ``options.out`` names a folder.

    Raises:
        DatasetError: a dataset cannot be used; PlanError: they do not fit together, or no plan is possible.
    """
    return planning.plan_together([_measure(source) for source in sources], options)


def measure(plan: Plan) -> str:
    """Run real training steps of every configuration and word their memory: predicted beside measured."""
    from autoseg import compute
    from autoseg.training.measure import measure_plan, word_measured

    chosen = compute.choose("auto", "auto")
    return word_measured(measure_plan(plan, chosen), chosen)


def _measure(source: DatasetSource) -> Fingerprint:
    """Check and measure a dataset without keeping anything."""
    from autoseg.preprocessing.fingerprinting import check_and_measure

    dataset = open_dataset(source)
    result, fingerprint = check_and_measure(dataset, None, store_folder=None)
    if result.stops or fingerprint is None:
        raise DatasetError(result.text())
    if dataset.labels is None and fingerprint.labels.instance_classes:  # nobody said so: the plan follows from it
        for note in result.notes:
            say(f"  note: {note}")
    return fingerprint


def plan_fingerprint(file: str | os.PathLike[str], options: RunOptions) -> Plan:
    """Plan from a fingerprint's file alone."""
    fingerprint = records_from(Fingerprint, Path(file))
    made = planning.make_plan(fingerprint, options)
    if options.out is not None:
        folder = RunFolder(options.out)
        folder.write(fingerprint, folder.fingerprint_file)
        folder.write(made, folder.plan_file)
    return made


def train(run_folder: Path, configuration: str, fold: str, *, wait: bool = False) -> None:
    """Train and validate one fold of a run that is planned and preprocessed."""
    from autoseg.training.folds import train_and_validate

    run = RunFolder(run_folder)
    with logged(run, f"train {configuration} fold {fold}") if run.run_file.exists() else contextlib.nullcontext():
        log.enter_stage("train")
        train_and_validate(run, configuration, int(fold) if fold.isdigit() else fold, wait=wait)


def predict(model: Path, images: Path, output: Path, **options: Any) -> None:
    """Segment a folder of images, or one image, into a folder."""
    from autoseg.inference.predictor import predict_folder

    try:
        predict_folder(model, images, output, **options)
    except (AutosegError, PlanError, RecordError, OSError):
        raise  # the user's to mend; the message says it all
    except Exception as fault:  # the model may be another's: what went wrong stands beside the predictions
        log.append(output / LOG, "start", "predict", **circumstances())
        log.append_fault(output / LOG, fault)
        raise


def export(model: Path, out: Path, kind: str = "autoseg") -> None:
    """Write a trained model for others, and say what was written."""
    from autoseg.inference.sharing import export_model

    done = export_model(model, out, kind)
    for note in done.notes:
        say(f"  {note}")
    for path in done.paths:
        print(path)


def evaluate(
    predictions: Any,
    labels: Any,
    *,
    task: str = "semantic",
    protocol: str | None = None,
    metrics: Sequence[str] = (),
) -> Any:
    """Compare two folders of label maps.

    Returns:
        An ``evaluation.folders.FolderComparison``; of ``instance`` maps an
        ``evaluation.instance_records.InstanceComparison``.

    Raises:
        OptionError: no such task, protocol or metric.
        DatasetError: nothing can be compared.
    """
    from autoseg.evaluation.folders import evaluate_folders
    from autoseg.evaluation.instance_folders import evaluate_instances

    tasks: dict[str, Callable[..., Any]] = {"semantic": evaluate_folders, "instance": evaluate_instances}
    return find(tasks, "task", task)(Path(predictions), Path(labels), protocol=protocol, metrics=metrics)


def evaluate_and_print(predictions: Path, labels: Path, options: EvaluateOptions) -> None:
    """Compare predictions with labels, and with other predictions where ``options`` name any; print, and keep.

    Raises:
        OptionError: options that do not go together, or a place for the files that holds something else.
        DatasetError: some files could not be compared; what could is printed.
    """
    _check_evaluation(options)
    given: Any = {"task": options.task, "protocol": options.protocol, "metrics": options.metrics}
    comparison = evaluate(predictions, labels, **given)
    if options.out is not None:
        write_atomic(options.out / "scores.json", records.dumps(comparison))
        write_atomic(options.out / "scores.csv", comparison.csv())
    if options.against is None:
        print_comparison(comparison, as_json=options.as_json)
        return
    from autoseg.evaluation.against import compare
    from autoseg.evaluation.run_differences import differences

    other = evaluate(options.against, labels, **given)
    margin = DEFAULT_MARGIN if options.margin is None else options.margin
    against = compare(comparison, other, margin, names=(str(predictions), str(options.against)))
    unequal = differences(predictions, options.against)
    found = {"scores": comparison, "other_scores": other, "against": against, "run_differences": unequal}
    if options.out is not None:
        for name in ("other_scores", "against", "run_differences"):
            write_atomic(options.out / f"{name}.json", records.dumps(found[name]))
        write_atomic(options.out / "difference.svg", against.svg())
    if options.as_json:
        print(json.dumps({name: records.to_json(item) for name, item in found.items()}, indent=2))
    else:
        titled = [f"{place}\n\n{item.text()}" for place, item in ((predictions, comparison), (options.against, other))]
        picture = f"picture  {options.out}/difference.svg" if options.out else "--out DIR draws it case by case"
        print("\n\n".join((*titled, against.text(), unequal.text(), picture)))
    _refuse_incomplete(comparison, other)


def _check_evaluation(options: EvaluateOptions) -> None:
    """Refuse, before anything is measured, what cannot be done or would replace the records of a run."""
    if options.task == "instance" and options.against is not None:
        raise OptionError("--against compares maps of classes; evaluate each folder of instances by itself")
    if options.margin is not None and options.against is None:
        raise OptionError("--margin is for --against OTHER; give both, or neither")
    out = options.out
    if out is not None and out.exists():
        if not out.is_dir():
            raise OptionError(f"--out {out} is a file. Name a folder")
        record = next((name for name in ("run.json", "fold.json") if (out / name).exists()), None)
        if record is not None:
            raise OptionError(
                f"--out {out} holds a {record}: its own scores.json would be replaced. Name another folder"
            )


def print_comparison(comparison: Any, *, as_json: bool = False) -> None:
    """Print a ``FolderComparison`` as a table, or as a record.

    Raises:
        DatasetError: some files could not be compared.
    """
    print(records.dumps(comparison) if as_json else comparison.text(), end="" if as_json else "\n")
    _refuse_incomplete(comparison)


def _refuse_incomplete(*comparisons: Any) -> None:
    left_out = sum(item.num_left_out for item in comparisons if item.problems)
    if left_out:
        raise DatasetError(f"{count(left_out, 'case')} could not be compared; see the list")


def report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of a run from its records; of several runs one page that compares them."""
    from autoseg.report import write_report

    folders = [RunFolder(path) for path in runs]
    for folder in folders:
        if not folder.run_file.exists():
            raise RunFolderError(f"{folder.root} is no run folder: it holds no run.json. Name one of `autoseg run`")
    if len(folders) > 1:
        from autoseg.report import write_comparison

        return write_comparison(folders, out or Path("comparison.html"))
    return write_report(folders[0], out)


def doctor(run_folder: Path | None = None, *, overfit: bool = False) -> None:
    """Print what is wrong with this machine, or with a run.

    Raises:
        RunFolderError: something is; it is printed.
    """
    from autoseg.doctor import examine

    if not examine(run_folder, overfit=overfit):
        raise RunFolderError("not all is well; see the lines marked with ! and the last one")


def demo(given: Mapping[str, Any]) -> RunFolder:
    """Make a small dataset and do the whole job on it."""
    from autoseg.data.demo import make_demo_dataset

    out = Path(given["out"])
    folder = out / "dataset"
    if not (folder / "dataset.json").exists():
        say(f"making a dataset in {folder}")
        make_demo_dataset(folder)
    source, options = options_from(folder, {**DEMO_OPTIONS, **given, "out": out / "run"})
    return run(source, options)
