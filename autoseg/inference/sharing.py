"""Write a trained model for others: one file for autoseg, or model folders that nnU-Net v2 predicts with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autoseg.data.io import image_ending
from autoseg.errors import ModelError, RunFolderError
from autoseg.evaluation.weights import weights_text
from autoseg.inference.bundle import bundle_path, write_bundle
from autoseg.inference.model import Selection, Trained, group_folds
from autoseg.inference.opening import OpenedModel, open_model
from autoseg.interop.nnunet import Fold
from autoseg.interop.nnunet_describe import USUAL_ENDING, changed_values
from autoseg.interop.nnunet_write import TrainedConfiguration, write_nnunet
from autoseg.networks import load_weights
from autoseg.options import ALL_DATA
from autoseg.run_folder import FoldFolder, RunRecord
from planners.plan import Plan

FORMATS = ("autoseg", "nnunet")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        paths: the file, or the model folders.
        networks: configurations and number of networks, for people.
        notes: what was changed or left out.
    """

    paths: tuple[Path, ...]
    networks: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldWeights(Mapping[Fold, Mapping[str, Tensor]]):
    """Weights by fold, each read when it is asked for."""

    folds: Mapping[Fold, FoldFolder]

    def __getitem__(self, fold: Fold) -> Mapping[str, Tensor]:
        return load_weights(self.folds[fold].weights_last)[0]

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)


def export_model(model: Path, out: Path, kind: str = "autoseg") -> Exported:
    """Write what segments new images.

    Args:
        model: any model that predicts (see ``opening``).
        out: a file; for ``nnunet`` a folder, in which model folders are made.
        kind: one of ``FORMATS``.

    Raises:
        ModelError: nothing is trained there, or nnU-Net cannot say something of it; nothing is written.
        OptionError: something is there already that would be mixed with it.
    """
    opened = open_model(model)
    with opened.naming():
        return _write_bundle(opened, out) if kind == "autoseg" else _write_nnunet(opened, out)


def _write_bundle(opened: OpenedModel, out: Path) -> Exported:
    manifest = write_bundle(opened.run.root, out)
    return Exported(paths=(bundle_path(out),), networks=manifest.networks)


def _write_nnunet(opened: OpenedModel, out: Path) -> Exported:
    plan, selection = opened.select()
    if selection.weights:
        names = ", ".join(configuration.name for configuration, _ in selection.folds)
        raise ModelError(
            f"nnU-Net averages configurations with equal weights; {names} have {weights_text(selection.weights)}. "
            "Export it as MODEL.autoseg, or make weights [] in choice.json"
        )
    trained = [_as_trained(item) for item in _in_order(selection)]
    paths = write_nnunet(plan, trained, out, _ending(opened))
    return Exported(paths=tuple(paths), networks=selection.name, notes=tuple(_notes(plan, selection)))


def _in_order(selection: Selection) -> list[Trained]:
    """List what feeds others before these; a configuration that feeds and is chosen too is written once, as chosen."""
    chosen = {configuration.name for configuration, _ in selection.folds}
    return [*(item for item in selection.previous if item[0].name not in chosen), *selection.folds]


def _as_trained(trained: Trained) -> TrainedConfiguration:
    configuration, folds = trained
    groups = group_folds(configuration, folds)
    if len(groups) > 1:
        sizes = " and ".join(str(list(own.patch_size)) for own, _ in groups)
        raise ModelError(
            f"the folds of {configuration.name} have different networks or patches ({sizes}): nnU-Net has one plan for "
            "all folds. Export it as MODEL.autoseg"
        )
    by_fold = {_fold(fold.root.name.removeprefix("fold_")): fold for fold in groups[0][1]}
    return TrainedConfiguration(groups[0][0], FoldWeights(by_fold))


def _fold(name: str) -> Fold:
    return int(name) if name.isdigit() else ALL_DATA


def _ending(opened: OpenedModel) -> str:
    """The ending of the dataset's image files, where the run still knows it."""
    try:
        cases = opened.run.read(RunRecord, opened.run.run_file).cases
    except RunFolderError:
        return USUAL_ENDING
    return (image_ending(cases[0].images[0]) if cases else "") or USUAL_ENDING


def _notes(plan: Plan, selection: Selection) -> Iterator[str]:
    if changed := changed_values(plan.labels):
        yield changed
    if len(selection.folds) > 1:
        yield (
            f"an ensemble of {len(selection.folds)} configurations: nnU-Net predicts with each (--save_probabilities) "
            "and averages with nnUNetv2_ensemble"
        )
    if selection.previous:
        feeders = ", ".join(configuration.name for configuration, _ in selection.previous)
        trained = [item for item, _ in (*selection.folds, *selection.previous) if item.previous is not None]
        otherwise = "; it brings them to the next grid as labels, autoseg as logits, so the results differ a little"
        yield (
            f"a cascade: nnU-Net predicts with {feeders} first, and takes its segmentations with "
            f"-prev_stage_predictions{otherwise if any(item.previous_resampling is None for item in trained) else ''}"
        )
    if selection.postprocessing:
        rules = ", ".join(f"{rule.rule} of {rule.name}" for rule in selection.postprocessing)
        yield f"without postprocessing ({rules}): nnU-Net keeps its own outside the model folder"
    if any(fold.root.name == f"fold_{ALL_DATA}" for _, folds in selection.folds for fold in folds):
        yield "the network trained on all cases is fold all: nnU-Net takes it with -f all"
