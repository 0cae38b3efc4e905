"""Records of a dataset as it lies on the user's disk: cases, what does not fit, and where to look."""

from dataclasses import dataclass
from pathlib import Path

from autoseg.data.splits import Splits
from planners.labels import Labels


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case: the files of its image, and of its label where it has one.

    Attributes:
        id: unique among the training cases, and among the test cases.
        images: one file per channel, or one file (or DICOM folder) with all channels.
        label: None for a case to predict.
        group: cases of one group (a patient) stay in one fold.
        annotated_classes: inner indices of the classes that were annotated, background included; None: all.
        classes: of a label that holds ids of objects, the map of class values beside it; None where there is one class.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    annotated_classes: tuple[int, ...] | None = None
    classes: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """What does not go together: files without partner (such a case is not among ``Dataset.cases``), or groups.

    Attributes:
        case: the case, as far as it is known.
        kind: ``image-without-label``, ``label-without-image``, ``missing-channel``,
            ``extra-channel`` or ``case-in-two-groups``.
        found: what was found, with the file and the closest name.
    """

    case: str
    kind: str
    found: str


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """Where the user says the data is.

    Attributes:
        dataset: folder, CSV table, or ``dataset.json``; None where ``images`` and ``labels`` are given.
        images, labels, test: folders of a plain layout.
        group_by: regular expression over case ids; its first group (or the whole match) names the case's group.
        task: ``semantic`` (labels hold classes), ``instance`` (they hold ids of objects), or ``auto``: as
            ``dataset.json`` says, and where it says nothing of labels, as they look.
    """

    dataset: Path | None = None
    images: Path | None = None
    labels: Path | None = None
    test: Path | None = None
    group_by: str | None = None
    task: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset folder, understood.

    Attributes:
        name: of the folder.
        root: folder (or table) it was read from.
        layout: which of the layouts was recognised, in words.
        channels: names, in the order of the image's first axis.
        labels: None where the files alone must tell (see ``infer_labels``).
        cases: training cases whose files go together, sorted by id.
        test_cases: cases to predict, sorted by id; a label may be there for scoring.
        splits: the user's own folds, or None.
        file_ending: of most image files; ``.dcm`` for DICOM folders.
        mismatches: files that do not go together.
        notes: decisions made on the way that the user should see.
        task: ``semantic`` or ``instance``; ``auto`` where labels are not declared and nobody has said.
    """

    name: str
    root: Path
    layout: str
    channels: tuple[str, ...]
    labels: Labels | None
    cases: tuple[Case, ...]
    test_cases: tuple[Case, ...] = ()
    splits: Splits | None = None
    file_ending: str
    mismatches: tuple[Mismatch, ...] = ()
    notes: tuple[str, ...] = ()
    task: str = "auto"
