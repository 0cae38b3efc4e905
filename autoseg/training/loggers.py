"""Loggers: the rows of ``progress.jsonl`` also go to TensorBoard, Weights & Biases or MLflow, where the user wants it.

Each is an extra (``pip install autoseg[tensorboard]``). None can stop a run: what one raises is said once, and it is
left out from there. ``progress.jsonl`` and the report are there in any case.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from autoseg.extensions import find
from autoseg.options import LOGGERS as LOGGER_NAMES
from autoseg.progress import say
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord, write_atomic
from planners import records
from planners.plan import Configuration

Row = Mapping[str, Any]


class Logger(Protocol):
    """Where the numbers of every epoch go."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Take the numbers of one epoch, counted from 1."""

    def close(self) -> None:
        """End; what was logged is kept."""


class TensorBoard:
    """Event files in ``RUN/tensorboard/CONFIGURATION/fold_K``: ``tensorboard --logdir RUN/tensorboard``."""

    def __init__(self, run: RunFolder, folder: FoldFolder, configuration: Configuration) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.root / "tensorboard" / configuration.name / folder.root.name))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Write one point per curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class WeightsAndBiases:
    """A run in ``RUN/wandb``, offline unless ``WANDB_MODE`` says otherwise; ``wandb sync`` sends it later."""

    def __init__(self, run: RunFolder, folder: FoldFolder, configuration: Configuration) -> None:
        """Begin a run, or go on with the fold's."""
        import wandb  # type: ignore[import-not-found, unused-ignore]

        place = f"{run.root.resolve()} {configuration.name} {folder.root.name}"
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "autoseg"),
            name=f"{run.root.name} {configuration.name} {folder.root.name}",
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            dir=str(run.root),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),  # the terminal is for the training's own lines
            config=records.to_json(configuration),
        )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Send one row."""
        self.run.log({**values, "epoch": epoch})

    def close(self) -> None:
        """End the run."""
        self.run.finish()


class MLflow:
    """A run in the database ``RUN/mlflow.db``, unless ``MLFLOW_TRACKING_URI`` names another place."""

    def __init__(self, run: RunFolder, folder: FoldFolder, configuration: Configuration) -> None:
        """Begin a run, or go on with the fold's."""
        import mlflow  # type: ignore[import-not-found, unused-ignore]

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{run.root.resolve() / 'mlflow.db'}")
        client: Any = mlflow.MlflowClient()
        kept = folder.root / "mlflow.json"
        if kept.exists():
            self.id = json.loads(kept.read_text(encoding="utf-8"))["run"]
        else:
            found = client.get_experiment_by_name(run.root.name)
            experiment = client.create_experiment(run.root.name) if found is None else found.experiment_id
            made = client.create_run(experiment, run_name=f"{configuration.name} {folder.root.name}")
            self.id = made.info.run_id
            write_atomic(kept, json.dumps({"run": self.id}) + "\n")
        self.client = client

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Write one point per curve."""
        for name, value in values.items():
            self.client.log_metric(self.id, name.replace("/", "."), value, step=epoch)

    def close(self) -> None:
        """Mark the run as finished."""
        self.client.set_terminated(self.id)


LOGGERS: dict[str, Callable[[RunFolder, FoldFolder, Configuration], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
assert tuple(LOGGERS) == LOGGER_NAMES, "options.LOGGERS names them for the command line, which starts without torch"


@contextlib.contextmanager
def open_loggers(run: RunFolder, folder: FoldFolder, configuration: Configuration) -> Iterator[Callable[[Row], None]]:
    """Open the loggers that the run was started with, and give a function that takes the row of an epoch.

    Args:
        run: its ``run.json`` says which loggers were asked for.
        folder: of the fold.
        configuration: of the fold.
    """
    opened: dict[str, Logger] = {}
    for name in _asked(run):
        with _harmless(run, name, opened):
            opened[name] = find(LOGGERS, "logger", name)(run, folder, configuration)

    def log(row: Row) -> None:
        values = numbers_of(row)
        for name, logger in tuple(opened.items()):
            with _harmless(run, name, opened):
                logger.log(values, row["epoch"] + 1)

    try:
        yield log
    finally:
        for name, logger in tuple(opened.items()):
            with _harmless(run, name, opened):
                logger.close()


def numbers_of(row: Row) -> dict[str, float]:
    """Pick the numbers of an epoch's row; lists (Dice per class) become one number each, what is None is left out."""
    values: dict[str, float] = {}
    for name, value in row.items():
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            if isinstance(item, int | float) and not isinstance(item, bool) and name != "epoch":
                values[name if index is None else f"{name}/{index + 1}"] = float(item)
    return values


def _asked(run: RunFolder) -> tuple[str, ...]:
    if not run.run_file.exists():
        return ()
    return tuple(run.read(RunRecord, run.run_file).options.get("logger") or ())


@contextlib.contextmanager
def _harmless(run: RunFolder, name: str, opened: dict[str, Logger]) -> Iterator[None]:
    """Let training go on whatever a logger raises; say it once, and leave the logger out."""
    try:
        yield
    except Exception as fault:  # a package of others, a network, a disk: anything may happen there
        opened.pop(name, None)
        missing = isinstance(fault, ImportError)
        because = f"pip install 'autoseg[{name}]'" if missing else f"{type(fault).__name__}: {fault}"
        say(f"  logger {name} is {'not installed' if missing else 'left out from here'} ({because}); training goes on")
        run.log("logger", name=name, because=f"{type(fault).__name__}: {fault}")
