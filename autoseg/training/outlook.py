"""When everything asked for will be trained: what is left, from how fast each configuration has been so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.data.splits import Splits
from autoseg.errors import AutosegError
from autoseg.inference.windows import lay_windows, mirrored_forms
from autoseg.options import ALL_DATA
from autoseg.planning import training_order
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.store import Store
from autoseg.progress import duration, finish_time, say
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training.fold_state import read_progress
from autoseg.training.time_limit import RECENT_EPOCHS, Length, Pace, fold_time, time_limit
from planners.plan import Configuration, Plan

SAMPLED_CASES = 20
"""Cases of a fold whose shapes are looked up; the others are taken to be like them (assumption)."""

Asked = tuple[str, int | str]
"""A training that is asked for: configuration and fold."""


def say_outlook(run: RunFolder) -> None:
    """Say when all trainings of a run will be done, as far as their speed is known from finished epochs."""
    if not (run.run_file.exists() and run.plan_file.exists() and run.splits_file.exists()):
        return
    plan, record = run.read(Plan, run.plan_file), run.read(RunRecord, run.run_file)
    num_folds = len(run.read(Splits, run.splits_file).folds)
    asked = training_order(plan, record.configurations, record.folds, num_folds)
    names = dict.fromkeys(name for name, _ in asked)
    paces = {name: pace for name in names if (pace := known_pace(run, plan.configuration(name)))}
    timed = [item for item in asked if item[0] in paces]
    if not timed:
        return
    left = remaining_s(run, plan, timed, paces) / trainings_at_once(plan, record, len(asked))
    unknown = [name for name in names if name not in paces]
    later = f"; then {', '.join(unknown)}, not timed yet" if unknown else ""
    what = "this training" if len(timed) == 1 else f"all {len(timed)} trainings"
    what += f" of {', '.join(paces)}" if unknown else ""
    say(f"  {what}, validation included: {duration(left)} more, done at about {finish_time(left)}{later}")


def known_pace(run: RunFolder, configuration: Configuration) -> Pace | None:
    """Take a configuration's speed from the newest epochs of its folds; None where none is finished."""
    for path in sorted((run.root / "folds" / configuration.name).glob("fold_*/progress.jsonl"), key=_age, reverse=True):
        rows = read_progress(run.fold(configuration.name, path.parent.name.removeprefix("fold_")))[-RECENT_EPOCHS:]
        if rows:
            training = configuration.training
            count, steps = len(rows), training.validation_steps
            validation_step = sum(row.get("validation_seconds", 0.0) for row in rows) / count / steps
            rest = sum(row["seconds"] for row in rows) / count - validation_step * steps
            window = validation_step / configuration.batch_size
            return Pace(
                step=max(rest, 0.0) / training.steps_per_epoch,
                validation_step=validation_step,
                window=window,
                voxel=0.0,
            )
    return None


def remaining_s(run: RunFolder, plan: Plan, asked: Sequence[Asked], paces: Mapping[str, Pace]) -> float:
    """Add up the seconds that trainings still need, one after the other, their final validation included.

    Args:
        run: planned and preprocessed.
        plan: of the run.
        asked: the trainings.
        paces: by configuration.
    """
    total = 0.0
    for name, fold in asked:
        length, pace = Length.of(plan.configuration(name).training), paces[name]
        state = fold_time(run, name, fold, length.steps_per_epoch)
        finished = state.finished >= length.epochs
        limit = time_limit(run, plan, name, fold)
        if not finished:
            epochs = (length.epochs if limit is None else limit.epochs) - state.epochs
            work = max(epochs, 0.0) * pace.epoch(length)
            total += work if limit is None else min(work, max(limit.seconds - state.seconds, 0.0))
        if not finished or state.validation_s is None:
            total += validation_s(run, plan, (name, fold), pace) if limit is None else limit.validation_s
    return total


def validation_s(run: RunFolder, plan: Plan, training: Asked, pace: Pace) -> float:
    """Estimate the seconds of one training's final validation from the shapes of its stored cases."""
    name, fold = training
    if fold == ALL_DATA:
        return 0.0
    cases = run.read(Splits, run.splits_file).folds[int(fold)].validation
    configuration, store = plan.configuration(name), Store(run.store(store_name(plan, name)))
    seconds = []
    for case_id in cases[:SAMPLED_CASES]:
        try:
            shape = store.open(case_id).shape
        except AutosegError:
            continue
        voxels = shape[0] * shape[1] * shape[2]
        seconds.append(count_passes(shape, configuration) * pace.window + voxels * pace.voxel)
    return sum(seconds) / len(seconds) * len(cases) if seconds else 0.0


def count_passes(shape: Sequence[int], configuration: Configuration) -> int:
    """Count how often the network runs for one case: its windows, each in all mirrored forms."""
    return len(lay_windows(shape, configuration).windows) * len(mirrored_forms(configuration))


def trainings_at_once(plan: Plan, record: RunRecord, count: int) -> int:
    """Tell how many of ``count`` trainings run side by side: one per GPU."""
    device = (record.compute or {}).get("device", "cpu")
    return max(min(plan.budget.num_devices, count), 1) if device == "cuda" else 1


def _age(path: Path) -> float:
    return path.stat().st_mtime
