"""Segment many images into a folder: skip what is done, finish what can be done, and say what could not."""

import contextlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.data.cases import Case
from autoseg.data.check_problem import count
from autoseg.data.folders import MAP_SUFFIXES, some, without_maps
from autoseg.data.io import (
    READERS,
    Image,
    image_ending,
    image_stem,
    open_image,
    output_ending,
    write_segmentation,
)
from autoseg.data.parallel import MemoryGate
from autoseg.errors import ImageError, OptionError, RunFolderError
from autoseg.evaluation.labelled_objects import classes_file
from autoseg.inference.case_memory import check_start
from autoseg.inference.confidence import ConfidenceWatcher
from autoseg.inference.export import PROBABILITIES_ENDING, LogitsPart, Slab, check_probabilities
from autoseg.inference.loaded import About, Loaded
from autoseg.inference.model import digest_of
from autoseg.inference.object_files import has_all_files, remove_companions, write_objects
from autoseg.inference.quality import QualityFile
from autoseg.inference.slabs import SlabJob
from autoseg.inference.speed import BEST
from autoseg.inference.stages import work_through
from autoseg.inference.uncertainty import UncertaintyWatcher, check_pointwise
from autoseg.preprocessing.preprocess import PreprocessedCase
from autoseg.progress import say
from autoseg.run_folder import records_from, write_atomic
from autoseg.targets import Target
from autoseg.targets.instance_target import InstanceTarget
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
        instances: classes whose objects are told apart. Where there are any the files hold ids of objects, and those in
            ``classes`` the values; with one class there are ids alone.
        facts: what the predictions depend on, by name, for people; kept for when the model's folder is gone.
    """

    model: str
    digest: str
    networks: str
    labels: dict[str, int] = field(default_factory=dict)
    instances: tuple[str, ...] = ()
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
            OptionError: probabilities or maps of uncertainty are asked of a target that has none per voxel.
        """
        self.predictor, self.output = predictor, output
        self.overwrite, self.replace_older = overwrite, replace_older
        self.save_probabilities = save_probabilities
        if save_probabilities:
            check_probabilities(predictor.target)
        self.maps: tuple[str, ...] = ()
        if uncertainty:
            check_pointwise(predictor.target)
            self.maps = MAP_SUFFIXES if predictor.num_networks > 1 else MAP_SUFFIXES[:1]
        self.instances, self._num_objects = _instance_names(predictor.target), 0
        self.quality = QualityFile(output, predictor.judge, tells_dice=predictor.target.pointwise)
        self.notes: Counter[str] = Counter()
        self._written, self._num_unwritten = threading.Condition(), 0
        self.room = predictor.memory.now()
        self.gate = MemoryGate(max(self.room.free, 0))

    def run(self, cases: Sequence[Case], incomplete: Mapping[str, str]) -> list[Path]:
        """Segment the cases; give their files, those that were there already included.

        Args:
            cases: with complete images.
            incomplete: what is wrong with other cases; they are listed with those that fail.

        Raises:
            ImageError: some images could not be segmented; the message lists them. The others are done.
            OptionError: the folder holds the images themselves, or another model's predictions.
            RoomError: there is no memory, or no disk, for any image.
        """
        self._check_output(cases)
        todo = [case for case in cases if self.overwrite or not self._is_done(case)]
        predictor = self.predictor
        if len(todo) < len(cases):
            say(f"  {len(cases) - len(todo)} of {len(cases)} images are segmented already; skipped")
        if todo:
            say(f"  {predictor.selection.name} ({predictor.selection.because}), {predictor.compute.device}")
            check_start()
        if todo and self.maps == MAP_SUFFIXES[:1]:
            say("  one network alone cannot disagree: no maps of disagreement")
        self.quality.begin({case.id for case in cases} - {case.id for case in todo})
        faults = work_through([(case.id, case) for case in todo], self._read, self._work, self._write, "segmenting")
        for line in self.quality.finish():
            say(f"  {line}")
        if todo and self.instances:
            say(f"  {count(self._num_objects, 'object')} in {count(len(todo) - len(faults), 'image')}")
        for note, number in self.notes.items():
            say(f"  {note} ({count(number, 'image')})")
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
        if self.instances and not has_all_files(self._file(case), self.predictor.plan.labels):
            return False
        return all(file.exists() for file in files) and (case.id in self.quality or not self.quality.existed)

    def _check_output(self, cases: Sequence[Case]) -> None:
        """Keep images safe, and predictions of two models apart; then write down which model it is."""
        inputs = {path.resolve() for case in cases for path in case.images}
        written = [self._file(case) for case in cases]
        written += [classes_file(file) for file in written if self.instances]
        if any(file.resolve() in inputs for file in written):
            raise OptionError(f"{self.output} holds the images: predictions would replace them. Give another folder")
        maps = {self._map_file(case, suffix) for case in cases for suffix in self.maps}
        taken = sorted(file.name for file in maps & {self._file(case) for case in cases})
        if taken:
            raise OptionError(f"{taken[0]} would be a segmentation and a map of uncertainty at once. Rename the image")
        wanted = PredictionsRecord(
            model=str(self.predictor.opened.path.resolve()),
            digest=digest_of(self.predictor.selection, self.predictor.plan),
            networks=self.predictor.selection.name,
            labels={item.name: item.value for item in self.predictor.plan.labels.classes},
            instances=self.instances,
            facts=_facts(self.predictor),
        )
        whose = self._other_model(wanted)
        if whose is not None:
            self._make_way(cases, inputs, whose)
        write_atomic(self.output / RECORD, records.dumps(wanted))

    def _other_model(self, wanted: PredictionsRecord) -> str | None:
        """Say which other model the folder's record names; None where there is no record, or it is this model's."""
        if not (self.output / RECORD).exists():
            return None
        try:
            found = records_from(PredictionsRecord, self.output / RECORD)
        except RunFolderError:
            return f"its {RECORD} cannot be read"
        return None if found.digest == wanted.digest else f"{found.model}, {found.networks}"

    def _had_objects(self) -> bool:
        """Tell whether the folder's record is of a model that tells objects apart; no, where it cannot be read."""
        try:
            return bool(records_from(PredictionsRecord, self.output / RECORD).instances)
        except RunFolderError:
            return False

    def _make_way(self, cases: Sequence[Case], inputs: set[Path], whose: str) -> None:
        """Take another model's predictions away before this one's record is written, or refuse.

        One record stands for the whole folder, so it may not be written while predictions stay that are not made again.
        What ``quality.json`` does not name may be the user's own and is never deleted, but where it is made again.

        Raises:
            OptionError: there are such predictions, and they may not be replaced, or some would stay.
        """
        own = {self._file(case) for case in cases}
        again = [path for path in sorted(own) if path.exists()]
        passed = own | {self._map_file(case, suffix) for case in cases for suffix in MAP_SUFFIXES}
        others = [path for path in list_segmentations(self.output) if path not in passed]
        others = [path for path in others if path.resolve() not in inputs]
        named = [path for path in others if image_stem(path) in self.quality]
        if self.output.resolve() in {path.parent for path in inputs}:
            others = named  # what else lies there cannot be told from images
        if not self.replace_older and (others or (again and not self.overwrite)):
            stay = (
                f", {len(others)} of them not of the images given ({some([path.name for path in others])}): they would "
                "stay beside those of this model. Give another folder, or move them away"
            )
            raise OptionError(
                f"{self.output} holds {len(again) + len(others)} predictions of another model, or of this one before "
                f"it was changed or at another speed ({whose})"
                f"{stay if others else '. Give another folder, or add --overwrite'}"
            )
        with_objects = self._had_objects()
        for path in (*named, *own):  # now, or a kill would leave old predictions under the new record
            _remove(path, with_objects)
        self.quality.forget()
        if named:
            say(
                f"  {len(named)} older predictions of images that are not given any more are removed from {self.output}"
            )
        if len(others) > len(named):
            unknown = [path.name for path in others if path not in named]
            say(f"  {self.output} holds files that are not known to be this model's; left as they are: {some(unknown)}")

    def _read(self, case: Case) -> Loaded:
        """Wait until memory has room for a case, then read and preprocess it; one for slabs is only opened."""
        image, held = open_image(case.images), contextlib.ExitStack()
        self.notes.update(image.notes)
        self.predictor.check_channels(image)
        ending = image_ending(self._file(case))
        needs = self.predictor.needs(image, ending, extras=self._extras(), each=len(self.maps) > 1)
        whole = self.room.takes_whole(needs, image.name)
        held.enter_context(self.gate.hold(needs.whole if whole else needs.slabs))
        with contextlib.ExitStack() as failed:
            failed.push(held)
            about = About(image.geometry, (), held)
            if not whole:
                loaded = Loaded(about, case, image)
            else:
                array = self.predictor.read_array(image)
                about = about._replace(warnings=self.predictor.judge.look_at(array, image.geometry))
                self.quality.warn(case.id, about.warnings)  # before the work: a wrong spacing can make it very large
                prepared = self.predictor.chain.preprocess(array, image.geometry.spacing_mm)
                loaded = Loaded(about, case, prepared)
            failed.pop_all()
        return loaded

    def _extras(self) -> str:
        """Say for what, beside the segmentation, no slabs are made."""
        if self.save_probabilities:
            return "probabilities are saved of whole images alone"
        return "maps of uncertainty are made of whole images alone" if self.maps else ""

    def _work(self, loaded: Loaded) -> tuple[About, list[LogitsPart]]:
        try:
            if isinstance(loaded.image, Image):
                return self._in_slabs(loaded.about, loaded.case, loaded.image), []
            return loaded.about, self._logits(loaded.image)
        except BaseException:
            loaded.about.held.close()
            raise

    def _in_slabs(self, about: About, case: Case, image: Image) -> About:
        """Segment an image that memory does not hold; its file is written meanwhile."""
        predictor = self.predictor
        say(f"  {case.id}: in slabs, as memory does not hold it whole")
        with SlabJob(predictor.chain, predictor.target, image, self.output) as job:
            assert job.looked is not None
            warnings = predictor.judge.look_at_seen(job.looked, image.geometry)
            self.quality.warn(case.id, warnings)
            watched, _ = job.segment(self._file(case), predictor.selection.postprocessing, case.id)
        return about._replace(warnings=warnings, watched=watched)

    def _logits(self, prepared: list[PreprocessedCase]) -> list[LogitsPart]:
        each = len(self.maps) > 1
        if each:
            try:
                self.predictor.chain.check_room_for_each(prepared)
            except ImageError:  # perhaps it fits once the last image is out of memory; if not, it is said below
                with self._written:
                    self._written.wait_for(lambda: self._num_unwritten == 0)
        parts = self.predictor.logits(prepared, each=each)
        with self._written:
            self._num_unwritten += 1
        return parts

    def _write(self, case: Case, result: tuple[About, list[LogitsPart]]) -> None:
        about, parts = result
        if about.watched is not None:
            about.held.close()
            self.quality.add(self.predictor.judge.rate(case.id, about.watched, about.warnings))
            return
        try:
            self._write_all(case, about, parts)
        finally:
            about.held.close()
            parts.clear()  # whoever still holds the list
            with self._written:
                self._num_unwritten -= 1
                self._written.notify()

    def _write_all(self, case: Case, about: About, parts: list[LogitsPart]) -> None:
        """Write the segmentation last: where it stands, all that belongs to it does."""
        predictor = self.predictor
        if self.instances:
            self._write_objects(case, about, parts)
            return
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

    def _write_objects(self, case: Case, about: About, parts: list[LogitsPart]) -> None:
        objects = self.predictor.objects(parts, consume=True)
        self.quality.add(self.predictor.judge.rate(case.id, None, about.warnings))
        write_objects(self._file(case), objects, self.predictor.plan.labels, about.geometry)
        self._num_objects += len(objects)
        if not about.geometry.known:
            self.notes.update(["the file tells no size of its pixels: objects are measured in pixels alone"])


def _facts(predictor: "Predictor") -> dict[str, str]:
    """Say what predictions depend on; the usual speed is not named, as programs that knew no other did not."""
    speed = predictor.selection.speed
    return predictor.opened.facts() | ({} if speed == BEST else {"speed": speed.text})


def list_segmentations(folder: Path) -> list[Path]:
    """List the files of a folder that may be segmentations; maps of uncertainty beside one are none."""
    if not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and image_ending(path) in READERS]
    cases = without_maps({image_stem(path): path for path in found})
    return [path for path in found if image_stem(path) in cases and not path.name.startswith(".")]


def _remove(segmentation: Path, with_objects: bool) -> None:
    """Remove a segmentation after all that belongs to it; only what told objects apart has files of objects."""
    if with_objects:
        remove_companions(segmentation)
    stem, ending = image_stem(segmentation), image_ending(segmentation)
    for name in (f"{stem}{PROBABILITIES_ENDING}", *(f"{stem}{suffix}{ending}" for suffix in MAP_SUFFIXES)):
        segmentation.with_name(name).unlink(missing_ok=True)
    segmentation.unlink(missing_ok=True)


def _instance_names(target: Target) -> tuple[str, ...]:
    """Name the classes whose objects a target tells apart; none where it finds no objects."""
    if not isinstance(target, InstanceTarget):
        return ()
    return tuple(target.labels.names[index] for index in target.instance_classes)
