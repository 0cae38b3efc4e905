"""Open a model of any kind as a run folder: a run, ``MODEL.autoseg``, or what nnU-Net v2 trained.

What is no run folder becomes one in a temporary folder, which goes with the object that holds it. People are told of
the path that they gave, never of that folder.
"""

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import AutosegError, ModelError
from autoseg.evaluation.run_facts import facts_of_run, training_facts
from autoseg.evaluation.selection import Choice
from autoseg.inference.bundle import ENDING, is_bundle, unpack
from autoseg.inference.model import Selection, open_run, select
from autoseg.interop.as_run import AS_TRAINED_RULE, write_as_run
from autoseg.interop.nnunet import is_nnunet
from autoseg.run_folder import RunFolder
from planners.plan import Plan
from planners.records import PlanError, RecordError

KNOWN = {"mirrored axes", "batch dice"}
"""What the files of nnU-Net say of a training."""

NO_CONFIDENCE = "the model was shared without its calibration (confidence.json): no Dice is predicted"


@dataclass(eq=False)
class OpenedModel:
    """A model as a run folder; where that is a temporary one, it is removed with this object.

    Attributes:
        path: as given.
        run: the run folder.
        because: what segments, and why, where the run folder itself was made for it.
        notes: what is to be told of it.
    """

    path: Path
    run: RunFolder
    because: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_temporary(self) -> bool:
        """Whether the run folder is a temporary one."""
        return self.run.root != self.path

    def select(self) -> tuple[Plan, Selection]:
        """Give the plan, and what of it segments new images.

        Raises:
            ModelError: nothing is trained there, something is missing, or names lead out of the model.
        """
        with self.naming():
            _, plan = open_run(self.run.root)
            selection = select(self.run, plan)
        if self.is_temporary:
            self._check_inside(selection)
        return plan, replace(selection, because=self.because) if self.because else selection

    def _check_inside(self, selection: Selection) -> None:
        """Refuse a plan or a choice from elsewhere whose names lead to files of this machine."""
        root = self.run.root.resolve()
        for configuration, folds in (*selection.folds, *selection.previous):
            if not all(fold.root.resolve().is_relative_to(root) for fold in folds):
                raise ModelError(f"{self.path} names weights outside of itself ({configuration.name}). Do not use it")

    def facts(self) -> dict[str, str]:
        """Say what predictions depend on, by name. How nnU-Net trained is not known: the plan names our own recipe."""
        unknown = training_facts() - KNOWN if self.because else frozenset()
        return {name: text for name, text in facts_of_run(self.run).facts.items() if name not in unknown}

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """While the body runs, messages name the path that was given in place of a temporary folder."""
        try:
            yield
        except (AutosegError, PlanError, RecordError) as fault:
            text = str(fault)
            if not self.is_temporary or str(self.run.root) not in text:
                raise
            raise type(fault)(text.replace(str(self.run.root), str(self.path))) from fault


def open_model(path: Path) -> OpenedModel:
    """Open a model.

    Args:
        path: run folder, ``MODEL.autoseg``, model folder of nnU-Net v2, or one of its checkpoints (``.pth``).

    Raises:
        ModelError: it is none of these, or damaged; the message says what was found.
    """
    if is_bundle(path) or (is_nnunet(path) and not (path / "plan.json").is_file()):
        return _open_elsewhere(path)
    if path.is_file():
        raise ModelError(f"{path} is no model: give a run folder, a {ENDING} file, or a model of nnU-Net v2")
    if path.is_dir():
        _check_run(path)
    return OpenedModel(path, RunFolder(path))


def _open_elsewhere(path: Path) -> OpenedModel:
    """Make a run folder of what is none."""
    folder = Path(tempfile.mkdtemp(prefix="autoseg-model-"))
    try:
        if is_bundle(path):
            run = unpack(path, folder)
            notes = () if run.confidence_file.exists() else (NO_CONFIDENCE,)
            opened = OpenedModel(path, run, notes=notes)
            with opened.naming():
                opened.because = _because(run)
        else:
            made = write_as_run(path, folder)
            opened = OpenedModel(path, made.run, made.because, made.notes)
    except BaseException as fault:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(fault, OSError):
            raise ModelError(
                f"{path} cannot be opened: {fault.strerror or fault}, in {folder.parent}. Free space there, or name "
                "another folder with TMPDIR"
            ) from fault
        raise
    weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
    return opened


def _because(run: RunFolder) -> str:
    """Say what segments where the choice is none of ours, but a model of nnU-Net's that was shared as a bundle."""
    reasons = run.read(Choice, run.choice_file).reasons if run.choice_file.exists() else ()
    return next((reason.because for reason in reasons if reason.rule == AS_TRAINED_RULE), "")


def _check_run(folder: Path) -> None:
    """Point to the models of nnU-Net that lie one level below, where a folder is none itself.

    Raises:
        ModelError: there are some.
    """
    if (folder / "plan.json").exists():
        return
    below = sorted(item for item in folder.iterdir() if item.is_dir() and is_nnunet(item))
    if below:
        names = ", ".join(str(item) for item in below[:3]) + (" …" if len(below) > 3 else "")
        raise ModelError(f"{folder} is no model itself, but holds models of nnU-Net v2. Give one of them: {names}")
    if folder.name.startswith("fold_") and is_nnunet(folder.parent):
        raise ModelError(f"{folder} is one fold of a model of nnU-Net v2. Give {folder.parent}, or the fold's .pth")
