"""Segment many images into a folder: skip what is done, finish what can be done, and say what could not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from autoseg.data.cases import Case
from autoseg.data.folders import MAP_SUFFIXES
from autoseg.data.io import Geometry, open_image, output_ending, write_segmentation
from autoseg.errors import ImageError, OptionError, RunFolderError
from autoseg.evaluation.run_facts import facts_of_run
from autoseg.inference.confidence import ConfidenceWatcher
from autoseg.inference.export import PROBABILITIES_ENDING, LogitsPart, Slab
from autoseg.inference.model import digest_of
from autoseg.inference.quality import QualityFile
from autoseg.inference.stages import work_through
from autoseg.inference.uncertainty import UncertaintyWatcher, check_pointwise
from autoseg.preprocessing.preprocess import PreprocessedCase
from autoseg.progress import say
from autoseg.run_folder import records_from, write_atomic
from planners import records

if TYPE_CHECKING:
    from autoseg.inference.predictor import Predictor

RECORD = "predictions.json"


@dataclass(frozen=True, kw_only=True)
class PredictionsRecord:
    """``predictions.json`` of an output folder: which model made what lies there.

    Attributes:
        model: its folder.
        digest: of all that its predictions depend on.
        networks: configurations and number of networks, for people.
        labels: value in the files of each class.
        facts: what the predictions depend on, by name, for people; kept for when the model's folder is gone.
    """

    model: str
    digest: str
    networks: str
    labels: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class FolderJob:
    """One predictor, one output folder."""

    def __init__(
        self,
        predictor: "Predictor",
        output: Path,
        *,
        overwrite: bool = False,
        replace_older: bool = False,
        save_probabilities: bool = False,
        uncertainty: bool = False,
    ) -> None:
        """Plan to write into a folder.

        Args:
            predictor: the opened model.
            output: folder; made where it is missing.
            overwrite: predict again what is there already.
            replace_older: predict again what another model, or another state of it, has written.
            save_probabilities: write the class probabilities too.
            uncertainty: write the maps of uncertainty too.

        Raises:
            OptionError: maps of uncertainty are asked of a target that has no probability per voxel.
        """
        self.predictor, self.output = predictor, output
        self.overwrite, self.replace_older = overwrite, replace_older
        self.save_probabilities = save_probabilities
        self.maps: tuple[str, ...] = ()
        if uncertainty:
            check_pointwise(predictor.target)
            self.maps = MAP_SUFFIXES if predictor.num_networks > 1 else MAP_SUFFIXES[:1]
        self.quality = QualityFile(output, predictor.judge)
        self.notes: Counter[str] = Counter()

    def run(self, cases: Sequence[Case], incomplete: Mapping[str, str]) -> list[Path]:
        """Segment the cases; give their files, those that were there already included.

        Args:
            cases: with complete images.
            incomplete: what is wrong with other cases; they are listed with those that fail.

        Raises:
            ImageError: some images could not be segmented; the message lists them. The others are done.
            OptionError: the folder holds the images themselves, or another model's predictions.
        """
        self._check_output(cases)
        todo = [case for case in cases if self.overwrite or not self._is_done(case)]
        predictor = self.predictor
        if len(todo) < len(cases):
            say(f"  {len(cases) - len(todo)} of {len(cases)} images are segmented already; skipped")
        if todo:
            say(f"  {predictor.selection.name} ({predictor.selection.because}), {predictor.compute.device}")
        if todo and self.maps == MAP_SUFFIXES[:1]:
            say("  one network alone cannot disagree: no maps of disagreement")
        self.quality.begin({case.id for case in cases} - {case.id for case in todo})
        faults = work_through([(case.id, case) for case in todo], self._read, self._work, self._write, "segmenting")
        for line in self.quality.finish():
            say(f"  {line}")
        for note, count in self.notes.items():
            say(f"  {note} ({count} image{'s' * (count > 1)})")
        faults = {**incomplete, **faults}
        if faults:
            lines = "\n".join(f"  case {case_id}: {faults[case_id]}" for case_id in sorted(faults))
            total = len(cases) + len(incomplete)
            some = f"{len(faults)} of {total} images could not be segmented; the others are done"
            raise ImageError(
                f"{some if len(faults) < total else f'none of {total} images could be segmented'}\n{lines}"
            )
        return [self._file(case) for case in cases]

    def _file(self, case: Case) -> Path:
        return self.output / f"{case.id}{output_ending(case.images[0])}"

    def _probabilities_file(self, case: Case) -> Path | None:
        return self.output / f"{case.id}{PROBABILITIES_ENDING}" if self.save_probabilities else None

    def _map_file(self, case: Case, suffix: str) -> Path:
        return self.output / f"{case.id}{suffix}{output_ending(case.images[0])}"

    def _is_done(self, case: Case) -> bool:
        probabilities = self._probabilities_file(case)
        files = [self._file(case), *(self._map_file(case, suffix) for suffix in self.maps)]
        files += [] if probabilities is None else [probabilities]
        return all(file.exists() for file in files) and (case.id in self.quality or not self.quality.existed)

    def _check_output(self, cases: Sequence[Case]) -> None:
        """Keep images safe, and predictions of two models apart; then write down which model it is."""
        inputs = {path.resolve() for case in cases for path in case.images}
        if any(self._file(case).resolve() in inputs for case in cases):
            raise OptionError(f"{self.output} holds the images: predictions would replace them. Give another folder")
        maps = {self._map_file(case, suffix) for case in cases for suffix in self.maps}
        taken = sorted(file.name for file in maps & {self._file(case) for case in cases})
        if taken:
            raise OptionError(f"{taken[0]} would be a segmentation and a map of uncertainty at once. Rename the image")
        wanted = PredictionsRecord(
            model=str(self.predictor.run.root.resolve()),
            digest=digest_of(self.predictor.selection, self.predictor.plan),
            networks=self.predictor.selection.name,
            labels={item.name: item.value for item in self.predictor.plan.labels.classes},
            facts=facts_of_run(self.predictor.run).facts,
        )
        found = self._record()
        present = [self._file(case) for case in cases if self._file(case).exists()]
        if found is not None and found.digest != wanted.digest and present:
            if not (self.overwrite or self.replace_older):
                raise OptionError(
                    f"{self.output} holds {len(present)} predictions of another model, or of this one before it was "
                    f"changed ({found.model}, {found.networks}). Give another folder, or add --overwrite"
                )
            for case in cases:  # or a kill would leave old predictions under the new record
                for path in (self._file(case), *(self._map_file(case, suffix) for suffix in MAP_SUFFIXES)):
                    path.unlink(missing_ok=True)
            self.quality.forget(case.id for case in cases)
        write_atomic(self.output / RECORD, records.dumps(wanted))

    def _record(self) -> PredictionsRecord | None:
        try:
            return records_from(PredictionsRecord, self.output / RECORD)
        except RunFolderError:
            return None

    def _read(self, case: Case) -> tuple["_About", list[PreprocessedCase]]:
        image = open_image(case.images)
        self.notes.update(image.notes)
        array = self.predictor.read_array(image)
        warnings = self.predictor.judge.look_at(array, image.geometry)
        self.quality.warn(case.id, warnings)  # before the work: a wrong spacing can make an image very large
        return _About(image.geometry, warnings), self.predictor.chain.preprocess(array, image.geometry.spacing_mm)

    def _work(self, loaded: tuple["_About", list[PreprocessedCase]]) -> tuple["_About", list[LogitsPart]]:
        about, prepared = loaded
        return about, self.predictor.logits(prepared, each=len(self.maps) > 1)

    def _write(self, case: Case, result: tuple["_About", list[LogitsPart]]) -> None:
        """Write the segmentation last: where it stands, all that belongs to it does."""
        about, parts = result
        predictor = self.predictor
        confidence = ConfidenceWatcher(predictor.target, predictor.plan.labels) if predictor.target.pointwise else None
        maps = UncertaintyWatcher(parts, predictor.target, predictor.plan.axis_order) if self.maps else None
        watchers = [watcher for watcher in (confidence, maps) if watcher is not None]

        def watch(slab: Slab) -> None:
            for watcher in watchers:
                watcher(slab)

        segmentation = predictor.segment(parts, self._probabilities_file(case), watch)
        if maps is not None:
            for suffix, values in zip(self.maps, (maps.entropy, maps.disagreement), strict=False):
                assert values is not None
                write_segmentation(self._map_file(case, suffix), values, about.geometry)
        watched = None if confidence is None else confidence.result()
        self.quality.add(predictor.judge.rate(case.id, watched, about.warnings))
        write_segmentation(self._file(case), segmentation, about.geometry)


class _About(NamedTuple):
    """What is known of an image beside its voxels."""

    geometry: Geometry
    warnings: tuple[str, ...]
