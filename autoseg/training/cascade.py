"""What one configuration leaves for the next: the segmentation of every case, made by a network that has not seen it.

Each fold of the previous configuration segments its validation cases onto the grid of the configurations that it feeds;
all folds together serve every case. What such a segmentation was made from is kept beside it: after more training of
the first stage it is made anew, and a cascade's fold that was trained from the older one is noticed.
"""

from collections.abc import Sequence

import numpy as np

from autoseg.data.splits import Splits
from autoseg.errors import RunFolderError
from autoseg.inference.export import LogitsPart
from autoseg.inference.previous import previous_segmentation
from autoseg.networks.checkpoint import weights_digest
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.preprocess import CaseGrid, make_grid
from autoseg.preprocessing.previous import Origin, find_previous, write_previous
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.run_folder import RunFolder
from autoseg.targets import make_target
from autoseg.training.trainer import FoldJob
from planners import records
from planners.plan import Configuration, Plan

SHOWN = 3
"""How many cases a message names."""


def open_cases(run: RunFolder, plan: Plan, name: str, ids: Sequence[str]) -> list[StoredCase]:
    """Open cases as a configuration sees them, with the previous segmentations where it needs them and they are there.

    Raises:
        RunFolderError: a case is not preprocessed.
    """
    store, fed = Store(run.store(store_name(plan, name))), plan.configuration(name)
    cases = [store.open(case_id) for case_id in ids]
    if fed.previous is None:
        return cases
    found = [(case, find_previous(run.store(name), case.id)) for case in cases]
    return [
        case.with_previous(previous)
        if previous is not None and previous.record.origin.grid == _grid_digest(case.grid, fed)
        else case
        for case, previous in found
    ]


def check_previous(job: FoldJob) -> None:
    """See that a fold of a cascade has everything that it is fed, and from the networks as they are now.

    Raises:
        RunFolderError: some cases have no segmentation by the previous configuration, or an older one.
    """
    configuration = job.configuration
    if configuration.previous is None:
        return
    again = f"Train all folds of {configuration.previous} first; `autoseg run` does it in order"
    cases = _all_cases(job)
    absent = [case.id for case in cases if case.previous is None]
    if absent:
        raise RunFolderError(
            f"{job.name} needs the segmentation of {configuration.previous} for every case; it is missing for "
            f"{len(absent)} of {len(cases)} ({_some(absent)}). {again}"
        )
    older = []
    now: dict[int, str | None] = {}
    for case in cases:
        assert case.previous is not None
        origin = case.previous.record.origin
        if origin.fold not in now:
            weights = job.run.fold(configuration.previous, origin.fold).weights_last
            now[origin.fold] = weights_digest(weights) if weights.exists() else None
        if now[origin.fold] not in (None, origin.weights):
            older.append(case.id)
    if older:
        raise RunFolderError(
            f"{job.name}: {configuration.previous} has been trained further since it segmented {len(older)} of "
            f"{len(cases)} cases ({_some(older)}). {again}"
        )


def previous_digest(job: FoldJob) -> str:
    """Identify what a fold of a cascade is fed: everything that its previous segmentations were made from.

    Empty where there is no previous configuration.
    """
    if job.configuration.previous is None:
        return ""
    found = ((case.id, case.previous) for case in _all_cases(job))
    return records.digest([[case_id, None if item is None else item.record.origin] for case_id, item in found])


class NextStages:
    """What a fold leaves for the configurations that its own one feeds."""

    def __init__(self, job: FoldJob) -> None:
        self.job = job
        self.fed = tuple(item for item in job.plan.configurations if item.previous == job.configuration.name)
        self.target = make_target(job.configuration.target, job.plan.labels, job.configuration.training)
        self.ids = self._ids() if self.fed else ()
        self.weights = weights_digest(job.folder.weights_last) if self.ids else ""

    @property
    def further_cases(self) -> list[StoredCase]:
        """Cases that no fold validates: the first fold segments them, though it may have been trained on them."""
        validated = {case.id for case in self.job.validation_cases}
        ids = [case_id for case_id in self.ids if case_id not in validated]
        return open_cases(self.job.run, self.job.plan, self.job.configuration.name, ids)

    def write(self, case: StoredCase, logits_KZYX: np.ndarray) -> None:
        """Write the segmentation of a case for every configuration that is fed; nothing where another fold does it."""
        if case.id not in self.ids:
            return
        resampling = self.job.configuration.resampling
        part = LogitsPart(logits_KZYX=logits_KZYX, grid=case.grid, resampling=resampling)
        for fed in self.fed:
            grid = _grid_of(case, fed)
            segmentation = previous_segmentation([part], self.target, grid, by_label=fed.previous_resampling)
            write_previous(self.job.run.store(fed.name), case.id, segmentation, self._origin(case, fed))

    def are_complete(self) -> bool:
        """Tell whether everything that this fold has to leave is there, made from its weights as they are now."""
        return all(self.has(case) for case in [*self.job.validation_cases, *self.further_cases])

    def has(self, case: StoredCase) -> bool:
        """Tell whether all that is to be left of a case is there, made from the weights as they are now."""
        return case.id not in self.ids or all(self._is_made(case, fed) for fed in self.fed)

    def _is_made(self, case: StoredCase, fed: Configuration) -> bool:
        found = find_previous(self.job.run.store(fed.name), case.id)
        return found is not None and found.record.origin == self._origin(case, fed)

    def _origin(self, case: StoredCase, fed: Configuration) -> Origin:
        assert isinstance(self.job.fold, int)
        return Origin(
            configuration=self.job.configuration.name,
            fold=self.job.fold,
            weights=self.weights,
            case=records.digest([case.digest, case.previous and case.previous.record.origin]),
            grid=_grid_digest(_grid_of(case, fed), fed),
        )

    def _ids(self) -> tuple[str, ...]:
        if not isinstance(self.job.fold, int):
            return ()
        splits = self.job.run.read(Splits, self.job.run.splits_file)
        return cases_of_fold(splits, self.job.fold)


def cases_of_fold(splits: Splits, fold: int) -> tuple[str, ...]:
    """List the cases that a fold segments for the next configuration: those that it is the first to validate.

    Cases that no fold validates (in folds that the user gave) fall to the first fold.
    """
    owner = {case_id: number for number, item in reversed(list(enumerate(splits.folds))) for case_id in item.validation}
    everything = dict.fromkeys(case_id for item in splits.folds for case_id in (*item.validation, *item.train))
    return tuple(case_id for case_id in everything if owner.get(case_id, 0) == fold)


def _grid_of(case: StoredCase, fed: Configuration) -> CaseGrid:
    """Work out where the case lies as the next configuration sees it; its store need not be there yet."""
    grid = case.grid
    return make_grid(grid.shape_before_crop, grid.crop_box, grid.spacing_before_mm, fed)


def _all_cases(job: FoldJob) -> list[StoredCase]:
    return list({case.id: case for case in (*job.train_cases, *job.validation_cases)}.values())


def _grid_digest(grid: CaseGrid, fed: Configuration) -> str:
    """Identify where a previous segmentation lies, and how it came there where that is not by its logits."""
    by_label = fed.previous_resampling
    return records.digest(grid if by_label is None else [grid, by_label])


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (" …" if len(ids) > SHOWN else "")
