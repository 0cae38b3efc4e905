"""What a public challenge is to autoseg: a record of its facts, and two functions that know its official folder.

    recognise(folder)  is this folder the one that the organisers hand out?
    read(folder)       which official files make which case                     → Official

All the rest is done alike for every challenge: ``preparing.py`` lays an ``Official`` out as a dataset, ``scoring.py``
scores by the protocol, ``packing.py`` makes the file to upload. A new challenge is one file with one record, listed in
``challenges/__init__.py``; the contract test of ``tests/challenges`` then runs over it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file of the dataset that cannot be an official file as it is, such as a slice of a stack.

    Attributes:
        source: the official file it is made from; it is made again when that one is newer.
        ending: of the file to write (``.nii.gz``).
        write: writes it to the place it is given, whole or not at all (``io.write_segmentation`` does).
    """

    source: Path
    ending: str
    write: Callable[[Path], Any]


File = Path | Made
"""An official file, which is linked under the dataset's name for it, or one that has to be made."""


@dataclass(frozen=True, kw_only=True)
class OfficialCase:
    """One case of an official folder.

    Attributes:
        id: the dataset's name for it; unique among training cases, and among test cases.
        images: one file per channel, or one that holds all channels.
        label: None where the organisers keep it.
        group: the patient, where several cases show the same.
    """

    id: str
    images: tuple[File, ...]
    label: File | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Official:
    """What an official folder holds.

    Attributes:
        cases: for training, each with a label.
        tests: to be submitted; some challenges publish their labels later.
        problems: ``case NAME: what is missing`` for each case that is not whole. Any of them stops ``prepare``.
        notes: what the user should know.
        splits: the organisers' own folds, (training ids, validation ids) each; most have none.
    """

    cases: tuple[OfficialCase, ...]
    tests: tuple[OfficialCase, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: tuple[tuple[Sequence[str], Sequence[str]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What the organisers want to be sent: a zip archive with a label map (uint8) per case, or what ``pack`` makes.

    Attributes:
        name: case id → name inside the archive, ``/`` between folders; its ending is the format.
        where: where to send it, or that it is not known; said when it is packed.
        values: dataset's label value → the organisers', where they differ; what is not named stays.
        pack: writes something else than such an archive: gets the challenge, the test cases, the folder of predictions
            and the place to write to; gives what it wrote; raises ``DatasetError`` as ``packing.pack_archive`` does.
    """

    name: Callable[[str], str]
    where: str
    values: Mapping[int, int] | None = None
    pack: "Callable[[Challenge, Sequence[OfficialCase], Path, Path], Path] | None" = None


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """A public challenge.

    Attributes:
        name: in the table and on the command line.
        title: for people.
        source: address of the challenge, where its facts come from.
        licence: of the data, as the organisers state it; "not stated" is said so.
        protocol: name in ``evaluation.protocols.PROTOCOLS``.
        expects: the official folder in words, for messages.
        channels: names of the images' channels; ``CT`` chooses CT's normalization.
        labels: as in ``dataset.json``: name → value, or → values for regions.
        recognise: says whether a folder is the official one; looks at names alone and is quick.
        read: lists the official files; raises ``DatasetError`` where what describes them cannot be understood.
        submission: what to send; None where nothing can be sent (any more).
        metrics: names beyond the protocol's own, where a challenge needs its own tolerances; empty: the protocol's.
        num_cases, num_tests: how many the organisers hand out; None where not known. Fewer are noted, not refused.
        extra: more keys for ``dataset.json``, such as ``regions_class_order``.
        annotated: training cases → case → the classes it was annotated for (``labels_present`` of ``dataset.json``),
            where the organisers hand out partly labelled cases; may read the labels.
    """

    name: str
    title: str
    source: str
    licence: str
    protocol: str
    expects: str
    channels: tuple[str, ...]
    labels: Mapping[str, int | tuple[int, ...]]
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Official]
    submission: Submission | None = None
    metrics: tuple[str, ...] = ()
    num_cases: int | None = None
    num_tests: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    annotated: Callable[[Sequence[OfficialCase]], Mapping[str, Sequence[str]]] | None = None

    @property
    def declared_labels(self) -> dict[str, int | list[int]]:
        """The labels as ``dataset.json`` writes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.labels.items()}

    @property
    def values(self) -> tuple[int, ...]:
        """All label values of the dataset, background included, ascending."""
        found = {0}
        for value in self.labels.values():
            found |= {value} if isinstance(value, int) else set(value)
        return tuple(sorted(found))
