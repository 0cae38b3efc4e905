"""Every path the program writes, and how it writes them: whole or not at all.

    RUN/
    ├── run.json           the dataset's place, options, precision and threads, versions, hardware
    ├── fingerprint.json   facts
    ├── plan.json          decisions; the file a user may edit
    ├── splits.json        folds; may be supplied by the user
    ├── check.json         what the check of the dataset found
    ├── store/CONFIGURATION/        cache of preprocessed cases: deleted and rebuilt at will; those of configurations
    │                               that preprocess alike lie with the first, previous segmentations with the one fed
    ├── store/measures/             cache of measured cases
    ├── init/CONFIGURATION.safetensors  weights that its training starts from
    ├── time.json          the time given for all trainings, and the speeds it was divided by
    ├── folds/CONFIGURATION/fold_K/
    │   ├── weights_last.safetensors  weights_best.safetensors  state.safetensors
    │   ├── fold.json               what this fold was made from (digests), and whether it is done
    │   ├── configuration.json      the configuration it is trained with: the plan's, but for later steps down
    │   ├── progress.jsonl          one line per epoch
    │   ├── case_losses.json        the loss of every case with the last weights
    │   ├── validation/             out-of-fold predictions
    │   ├── validated/              scores of single cases, until the last is validated
    │   ├── confidence.json         what the network expected of them
    │   └── scores.json
    ├── choice.json        ensemble and postprocessing, with reasons
    ├── scores.json        out-of-fold scores of what was chosen, with its postprocessing
    ├── metrics.json       the same measured in every way of the default protocol: surfaces, volumes, …
    ├── instances.json     where objects are told apart: what became of each, out of fold
    ├── confidence.json    its calibration curve, and how the Dice of a new case is predicted
    ├── out_of_fold/       where an ensemble was chosen, or objects are told apart: the predictions of the labelled
    │                      cases as they were chosen, before postprocessing
    ├── predictions/       of the dataset's test images
    ├── log.jsonl          every decision, warning and root cause
    └── report.html

A record is written to a file beside its place, flushed to the disk, and renamed: a kill leaves the old file or the new.
"""

import contextlib
import dataclasses
import itertools
import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from autoseg import log, room
from autoseg.errors import RunFolderError
from autoseg.locks import hold, is_in_use, mark_in_use
from planners import records
from planners.edit import read_plan
from planners.plan import Plan

Record = TypeVar("Record")

UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}(\.[A-Za-z0-9]+){1,2}")
"""Names of unfinished files: hidden, with eight random characters before their ending (``tempfile.mkstemp``)."""

FOLD_LOCK = ".lock"
"""In a fold's folder: held by who trains it."""

MARKING_S = 0.1  # assumption: a file is marked as in use sooner after it was made


def write_atomic(path: Path, content: bytes | str, *, lasting: bool = True) -> None:
    """Write a file whole or not at all (temporary file in the same folder, fsync, rename).

    Args:
        path: of the file; its folder is made if it is missing.
        content: text is written as UTF-8.
        lasting: wait until the disk has it, which takes milliseconds. Without, a power cut (nothing less) may undo or
            damage what was written in the minute before it: for what is checked when it is read, and made again.

    Raises:
        RoomError: the disk does not hold it; what was there before is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    mark_in_use(handle)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as fault:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if room.is_no_disk(fault):
            raise room.no_disk(path, len(data), fault) from fault
        raise


def remove_leftovers(folder: Path, *, deep: bool = True) -> list[Path]:
    """Delete the unfinished files of processes that were killed, in a folder that this program made.

    Only files with the names that this program gives to unfinished ones, and none that a process is writing now.

    Args:
        folder: to look in.
        deep: also in all folders below it.

    Returns:
        What was deleted.
    """
    removed = []
    for place, _, names in itertools.islice(os.walk(folder), None if deep else 1):
        for name in filter(UNFINISHED.fullmatch, names):
            path = Path(place, name)
            with contextlib.suppress(OSError):  # gone meanwhile
                age_s = time.time() - path.stat().st_mtime  # below 0 where the clock was set back
                if not 0 <= age_s <= MARKING_S and not is_in_use(path):
                    path.unlink()
                    removed.append(path)
    return removed


@dataclass(frozen=True)
class FoldFolder:
    """The files of one trained fold of one configuration."""

    root: Path

    @property
    def weights_last(self) -> Path:
        """Weights after the newest saved step."""
        return self.root / "weights_last.safetensors"

    @property
    def weights_best(self) -> Path:
        """Weights of the epoch with the best smoothed validation Dice."""
        return self.root / "weights_best.safetensors"

    @property
    def state(self) -> Path:
        """All that is needed to go on training: weights, momentum, counters."""
        return self.root / "state.safetensors"

    @property
    def record(self) -> Path:
        """What the fold was made from, and how far it is."""
        return self.root / "fold.json"

    @property
    def configuration(self) -> Path:
        """The configuration that the fold is trained with."""
        return self.root / "configuration.json"

    @property
    def progress(self) -> Path:
        """One JSON object per finished epoch."""
        return self.root / "progress.jsonl"

    @property
    def case_losses(self) -> Path:
        """The loss of every case with the last weights."""
        return self.root / "case_losses.json"

    @property
    def validation(self) -> Path:
        """Out-of-fold predictions of this fold's validation cases."""
        return self.root / "validation"

    @property
    def scores(self) -> Path:
        """Scores of the out-of-fold predictions."""
        return self.root / "scores.json"

    @property
    def confidence(self) -> Path:
        """What the network expected of its out-of-fold predictions."""
        return self.root / "confidence.json"


@dataclass(frozen=True)
class RunFolder:
    """One run: where its records and caches are."""

    root: Path

    @property
    def run_file(self) -> Path:
        """``run.json``."""
        return self.root / "run.json"

    @property
    def fingerprint_file(self) -> Path:
        """``fingerprint.json``."""
        return self.root / "fingerprint.json"

    @property
    def plan_file(self) -> Path:
        """``plan.json``."""
        return self.root / "plan.json"

    @property
    def splits_file(self) -> Path:
        """``splits.json``."""
        return self.root / "splits.json"

    @property
    def check_file(self) -> Path:
        """``check.json``."""
        return self.root / "check.json"

    @property
    def choice_file(self) -> Path:
        """``choice.json``."""
        return self.root / "choice.json"

    @property
    def scores_file(self) -> Path:
        """``scores.json``."""
        return self.root / "scores.json"

    @property
    def metrics_file(self) -> Path:
        """``metrics.json``."""
        return self.root / "metrics.json"

    @property
    def confidence_file(self) -> Path:
        """``confidence.json``."""
        return self.root / "confidence.json"

    @property
    def instances_file(self) -> Path:
        """``instances.json``."""
        return self.root / "instances.json"

    @property
    def out_of_fold(self) -> Path:
        """Folder of the out-of-fold predictions of what was chosen, where it is an ensemble or tells objects apart.

        Those of a single configuration that segments classes lie in its folds.
        """
        return self.root / "out_of_fold"

    @property
    def time_file(self) -> Path:
        """``time.json``."""
        return self.root / "time.json"

    @property
    def log_file(self) -> Path:
        """``log.jsonl``."""
        return self.root / "log.jsonl"

    @property
    def report_file(self) -> Path:
        """``report.html``."""
        return self.root / "report.html"

    @property
    def predictions(self) -> Path:
        """Folder of predictions of the dataset's test images."""
        return self.root / "predictions"

    @property
    def measures(self) -> Path:
        """Folder of cached measurements, one file per case."""
        return self.root / "store" / "measures"

    def store(self, configuration: str) -> Path:
        """Folder of the preprocessed cases of one configuration."""
        return self.root / "store" / configuration

    def initial_weights(self, configuration: str) -> Path:
        """Weights that the training of one configuration starts from, where its plan names any."""
        return self.root / "init" / f"{configuration}.safetensors"

    def fold(self, configuration: str, fold: int | str) -> FoldFolder:
        """Files of one fold; ``fold`` is its number, or ``all-data``."""
        for name in (configuration, str(fold)):
            if not records.is_file_name(name):
                raise RunFolderError(f"{self.root} names the fold {records.shown(name)}, which cannot be a folder")
        return FoldFolder(self.root / "folds" / configuration / f"fold_{fold}")

    def is_begun(self, configuration: str) -> bool:
        """Tell whether the training of any fold of a configuration was begun."""
        return any((self.root / "folds" / configuration).glob("fold_*/fold.json"))

    def read(self, record_type: type[Record], path: Path) -> Record:
        """Read a record.

        Raises:
            RunFolderError: the file is missing, no JSON, or does not fit the record; the message names the place.
        """
        return records_from(record_type, path)

    def write(self, record: Any, path: Path) -> None:
        """Write a record, whole or not at all."""
        write_atomic(path, records.dumps(record))

    def change_record(self, **changes: Any) -> None:
        """Replace fields of ``run.json``, and add to ``made_from``; what others change in it meanwhile is kept."""
        with hold(self.root / ".run.json.lock", wait=True, remove=True):
            found = self.read(RunRecord, self.run_file)
            if "made_from" in changes:
                changes["made_from"] = {**found.made_from, **changes["made_from"]}
            self.write(dataclasses.replace(found, **changes), self.run_file)

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with its fields to the log; see ``autoseg.log``."""
        row = {"event": event, **records.to_json(fields)}
        log.append(self.log_file, log.kind_of(event, row), log.text_of(row), **row)


def records_from(record_type: type[Record], path: Path) -> Record:
    """Read one record's file.

    Raises:
        RunFolderError: the file is missing, no JSON, or does not fit the record; the message names the place.
    """
    try:
        value = records.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise RunFolderError(f"{path} does not exist. Give a run folder, or run the step that makes it") from fault
    except UnicodeDecodeError as fault:
        raise RunFolderError(f"{path} is not JSON: {fault}. Correct it, or delete it to have it made again") from fault
    except records.RecordError as fault:
        raise RunFolderError(f"{path} {fault}. Correct it, or delete it to have it made again") from fault
    except OSError as fault:
        raise RunFolderError(f"{path} cannot be read: {fault.strerror}") from fault
    try:
        # A plan may be a person's: its configurations may inherit.
        return cast(Record, read_plan(value)) if record_type is Plan else records.from_json(record_type, value)
    except records.RecordError as fault:
        raise RunFolderError(f"{path}: {fault}. Correct it, or delete it to have it made again") from fault


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """The files of one case on the user's disk; one entry per channel file (or the only file that holds all).

    ``annotated_classes`` are the inner indices of the classes the case has been annotated for; None: all. ``classes``
    is the map of classes beside a label of object ids; None where there is none.
    """

    id: str
    images: tuple[str, ...]
    label: str | None = None
    group: str | None = None
    annotated_classes: tuple[int, ...] | None = None
    classes: str | None = None

    def __post_init__(self) -> None:
        if not records.is_file_name(self.id):
            raise records.RecordError(f"a case is named {records.shown(self.id)}; files are named after it")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """``run.json``: where the data is and how this run computes.

    Attributes:
        name: the dataset's name.
        dataset: the folder (or table) it was read from.
        cases, test_cases: files of the labelled cases and of those to predict.
        configurations, folds: what this run trains.
        options: what the user asked for, as given.
        compute: device, precision, memory format and threads, chosen by the probe at the first start and kept.
        versions, hardware: of the first start.
        started: date and time of the first start.
        seed: of training.
        made_from: per record file, the digest of what it was made from.
        warnings: what the check warned of.
    """

    name: str
    dataset: str
    cases: tuple[CaseFiles, ...]
    test_cases: tuple[CaseFiles, ...] = ()
    configurations: tuple[str, ...] = ()
    folds: tuple[int | str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    started: str
    seed: int = 0
    made_from: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
