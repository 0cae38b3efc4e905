"""A model that nnU-Net v2 trained, written as a run folder: what segments with a run then segments with it.

Only what prediction needs is written: the plan with the configurations that have weights, the weights, and a choice
that averages all folds. nnU-Net's postprocessing is a pickle beside other folders, and is not taken over.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save

from autoseg.data.check_problem import count
from autoseg.errors import ModelError
from autoseg.evaluation.selection import Choice
from autoseg.interop.nnunet import CHECKPOINTS, Fold, NnunetWeights, open_nnunet
from autoseg.options import ALL_DATA
from autoseg.run_folder import RunFolder, write_atomic
from planners.plan import Plan, Reason

AS_TRAINED_RULE = "as-trained"
"""Rule of the choice in such a run."""

TURNING_READER = "NibabelIOWithReorient"
POSTPROCESSING = "postprocessing.pkl"


@dataclass(frozen=True, kw_only=True)
class WrittenRun:
    """A run folder made of a model of nnU-Net.

    Attributes:
        run: the folder.
        because: which folds segment, and why.
        notes: what of the model is not taken over.
    """

    run: RunFolder
    because: str
    notes: tuple[str, ...]


def write_as_run(model: Path, folder: Path) -> WrittenRun:
    """Write what nnU-Net v2 trained as a run folder.

    Args:
        model: model folder, or one checkpoint.
        folder: an empty or missing folder.

    Returns:
        The run folder (``plan.json``, ``choice.json`` and the weights of all folds), and what is to be told.

    Raises:
        ModelError: it is no model, something is missing or damaged, the first stage of a cascade does not stand beside
            it, or its images are to be turned first.
    """
    plan, weights = open_nnunet(model)
    if weights.reader == TURNING_READER:
        raise ModelError(
            f"{model} was trained on images that nnU-Net turns to one orientation when it reads them "
            f"({TURNING_READER}), which is not done here. Predict with nnU-Net, or train on the images as they lie"
        )
    own = next(iter(weights))[0]
    needed = _stages(plan, own)
    folds = {name: _folds(weights, name) for name in needed}
    _check_complete(model, folds)
    run = RunFolder(folder)
    for name in needed:
        for fold in folds[name]:
            write_atomic(run.fold(name, fold).weights_last, save(dict(weights[name, fold])))
    kept = tuple(item for item in plan.configurations if item.name in needed)
    run.write(replace(plan, configurations=kept), run.plan_file)
    because = _because(weights, own, folds[own])
    run.write(_choice(own, folds[own], because), run.choice_file)
    return WrittenRun(run=run, because=because, notes=_notes(model, weights, folds))


def _stages(plan: Plan, name: str) -> list[str]:
    names, previous = [name], plan.configuration(name).previous
    while previous is not None:
        names.append(previous)
        previous = plan.configuration(previous).previous
    return names


def _folds(weights: NnunetWeights, name: str) -> list[Fold]:
    """List the folds that nnU-Net averages: the finished ones where any is, without the one that trained on all."""
    found = [fold for own, fold in weights if own == name]
    finished = [fold for fold in found if weights.files[name, fold].name == CHECKPOINTS[0]] or found
    return [fold for fold in finished if fold != ALL_DATA] or finished


def _check_complete(model: Path, folds: dict[str, list[Fold]]) -> None:
    missing = [name for name, found in folds.items() if not found]
    if missing:
        what = "put the model folder" if model.is_dir() else "give the model folder, not one checkpoint, with that"
        raise ModelError(
            f"{model} is the second stage of a cascade, and the networks of {missing[0]} are not there: {what} of "
            f"{missing[0]}, as nnU-Net v2 trained it, beside this one"
        )


def _because(weights: NnunetWeights, name: str, folds: list[Fold]) -> str:
    files = sorted({weights.files[name, fold].name for fold in folds})
    averaged = f"{count(len(folds), 'fold')} averaged" if len(folds) > 1 else f"fold {folds[0]}"
    return f"a model of nnU-Net v2, {averaged}: {', '.join(files)}"


def _notes(model: Path, weights: NnunetWeights, folds: dict[str, list[Fold]]) -> tuple[str, ...]:
    notes = ["a model of nnU-Net knows nothing of its training images: no Dice is predicted"]
    left = [f"fold_{fold} of {name}" for name, fold in weights if fold not in folds.get(name, [fold])]
    if left:
        notes.append(f"not averaged with the others: {', '.join(left)}")
    unfinished = [name for name, found in folds.items() if weights.files[name, found[0]].name not in CHECKPOINTS[:1]]
    if unfinished and model.is_dir():
        notes.append(f"{', '.join(unfinished)} has no {CHECKPOINTS[0]}: its training was not finished")
    place = model if model.is_dir() else model.parent.parent
    if any(place.glob(POSTPROCESSING)) or any(place.glob(f"crossval_results*/{POSTPROCESSING}")):
        notes.append(f"its {POSTPROCESSING} is not applied: a pickle could run anything")
    return tuple(notes)


def _choice(name: str, folds: list[Fold], because: str) -> Choice:
    return Choice(
        configurations=(name,),
        folds=tuple(folds),
        postprocessing=(),
        structures=(),
        num_cases=0,
        mean_dice=None,
        mean_iou=None,
        dice=(),
        candidates=(),
        trials=(),
        reasons=(Reason(about="choice.configurations", rule=AS_TRAINED_RULE, because=because),),
    )
